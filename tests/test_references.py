"""Whose distributions a configuration is compared with, whether they are there, and what is run again when they come later."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim import plan as planning
from slim import references
from slim.config import SweepConfig
from slim.errors import Reason, StoreError
from slim.evaluate import REFERENCE_FILE
from slim.jobs import Spool
from slim.planned import Plan, PlannedConfiguration
from slim.records import Against, Failure, StageResult
from slim.store import TAG, Store

EVALUATE: dict[str, Any] = {"tasks": ["slim_facts"]}
KEPT = {"evaluate.fidelity_kept_tokens": 9}
WITH, WITHOUT = {"evaluate.fidelity_reference": True}, {"evaluate.fidelity_reference": False}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def plan(model: Path, precisions: list[str], store: Store | None = None, spool: Spool | None = None, **evaluate: Any) -> Plan:
    values = {"models": [str(model)], "precisions": precisions, "evaluate": {**EVALUATE, **evaluate}}
    return planning.make(SweepConfig.parse(values), store, spool)


def by_name(made: Plan) -> dict[str, PlannedConfiguration]:
    return {c.name.partition("/")[2]: c for c in made.configurations}


def evaluate_key(planned: PlannedConfiguration) -> str:
    return next(s.key for s in planned.stages if s.stage == "evaluate")


def test_each_is_compared_with_the_baseline_of_its_engine(tiny_model: Path) -> None:
    both = by_name(plan(tiny_model, ["bnb-nf4@transformers", "fp16@transformers", "bf16@transformers", "gptq-int8@vllm"]))
    nf4, fp16, bf16 = (both[f"{p}@transformers"] for p in ("bnb-nf4", "fp16", "bf16"))
    assert bf16.reference is None
    assert (bf16.keeps_reference, fp16.keeps_reference, nf4.keeps_reference) == (True, False, False)
    for one in (nf4, fp16):
        assert one.reference is not None
        assert (one.reference.name, one.reference.key) == (bf16.name, evaluate_key(bf16))
    # Of another engine, and not part of this sweep: what a sweep with it would have made.
    int8 = both["gptq-int8@vllm"]
    other = by_name(plan(tiny_model, ["bf16@vllm"]))["bf16@vllm"]
    assert int8.reference is not None
    assert (int8.reference.name, int8.reference.key) == (other.name, evaluate_key(other))

    alone = by_name(plan(tiny_model, ["bnb-nf4@transformers"]))["bnb-nf4@transformers"]
    assert (alone.reference, alone.key) == (nf4.reference, nf4.key)

    second = by_name(plan(tiny_model, ["fp16@transformers", "bnb-nf4@transformers"]))
    baseline, compared = second["fp16@transformers"], second["bnb-nf4@transformers"]
    assert baseline.keeps_reference
    assert compared.reference is not None
    assert (compared.reference.name, compared.reference.key) == (baseline.name, evaluate_key(baseline))
    assert evaluate_key(compared) != evaluate_key(nf4)
    assert evaluate_key(baseline) != evaluate_key(fp16)


@pytest.mark.parametrize("off", [{"fidelity_tokens": None}, {"perplexity_text": None}])
def test_without_the_comparison_the_baseline_does_not_matter(off: dict[str, Any], tiny_model: Path) -> None:
    keys = set()
    for baseline in (["bf16@transformers"], ["fp16@transformers"], []):
        nf4 = by_name(plan(tiny_model, [*baseline, "bnb-nf4@transformers"], **off))["bnb-nf4@transformers"]
        assert nf4.reference is None
        keys.add(evaluate_key(nf4))
    assert len(keys) == 1


def log(
    store: Store, spool: Spool, key: str, params: dict[str, Any], *, failure: Failure | None = None, wait: bool = False
) -> None:
    """An evaluation that ended."""
    with spool.writing(key) as draft:
        if "evaluate.fidelity_kept_tokens" in params:
            (draft.artifacts / REFERENCE_FILE).write_text(key)
        draft.finish(StageResult("evaluate", key, params=params, failure=failure, started_unix_s=1, ended_unix_s=2))
    found = spool.find(key)
    assert found is not None
    if not wait:
        store.log_stage(found, name="x", parent=None, params={}, tags={})
        spool.discard(key)


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        # The baseline's turn comes in this plan.
        (WITHOUT, None, False),
        (WITHOUT, {}, True),
        (WITHOUT, KEPT, False),
        # Compared, and the divergence was infinite, say: once more would not change it.
        (WITH, KEPT, True),
        (WITH, None, True),
    ],
)
def test_what_was_evaluated_before_its_baseline_is_run_again(
    case: tuple[dict[str, Any], dict[str, Any] | None, bool], wait: bool, tiny_model: Path, store: Store, spool: Spool
) -> None:
    own, baseline, reused = case
    precisions = ["bf16@transformers", "fp16@transformers"]
    first = by_name(plan(tiny_model, precisions))
    fp16 = first["fp16@transformers"]
    log(store, spool, evaluate_key(fp16), own, wait=wait)
    run = store.begin("configuration", fp16.name, tags={TAG.KEY: fp16.key})
    store.finish(run)
    if baseline is not None:
        log(store, spool, evaluate_key(first["bf16@transformers"]), baseline, wait=wait)

    found = by_name(plan(tiny_model, precisions, store, spool))["fp16@transformers"]
    stage = next(s for s in found.stages if s.stage == "evaluate")
    assert stage.to_run is not reused
    assert (found.run is not None) == reused
    assert found.key == fp16.key


def configuration(**fields: Any) -> Any:
    reference = SimpleNamespace(name="m/bf16@vllm", key="k")
    return SimpleNamespace(**{"reference": reference, "keeps_reference": False, **fields})


def test_a_baseline_keeps(store: Store, spool: Spool) -> None:
    assert references.find(configuration(reference=None, keeps_reference=True), store, spool) == Against(keep=True)
    assert references.find(configuration(reference=None), store, spool) == Against()


def test_what_a_baseline_kept_is_found_in_the_spool_and_in_the_store(store: Store, spool: Spool) -> None:
    log(store, spool, "k", KEPT, wait=True)
    waiting = references.find(configuration(), store, spool)
    assert waiting.path == spool.root / "k" / "artifacts" / REFERENCE_FILE
    spool.discard("k")
    log(store, spool, "k", KEPT)
    stored = references.find(configuration(), store, spool)
    assert stored.path is not None
    assert stored.path.read_text() == "k"
    stored.path.unlink()
    assert "no artifact" in references.find(configuration(), store, spool).missing


def test_why_there_is_nothing_to_compare_with(store: Store, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(failure: Failure | None = None) -> str:
        found = references.find(configuration(), store, spool, failure)
        assert found.path is None
        return found.missing

    failure = Failure(Reason.OUT_OF_MEMORY, "no room")
    assert missing() == "its baseline m/bf16@vllm has not been evaluated with these settings"
    assert missing(failure) == "its baseline m/bf16@vllm failed: out_of_memory"
    log(store, spool, "k", KEPT, failure=failure, wait=True)
    assert missing(failure) == "its baseline m/bf16@vllm failed: out_of_memory"
    spool.discard("k")
    log(store, spool, "k", {})
    assert missing() == "its baseline m/bf16@vllm kept no distributions"

    def away(*_: object) -> None:
        raise StoreError("tracking store: searching runs failed")

    monkeypatch.setattr(store, "find_finished", away)
    assert "cannot be fetched: tracking store" in missing()
