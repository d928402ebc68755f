"""Out of memory: once more with less, where that leaves the measurement comparable, and said on the result."""

from pathlib import Path
from typing import Any

import pytest

from slim import models, retry
from slim.config import ModelEntry
from slim.errors import Reason
from slim.jobs import Job, Spool, Spooled, StageOrder
from slim.records import Failure, Stage, StageResult
from slim.store import TAG

NO_ROOM = Failure(Reason.OUT_OF_MEMORY, "no room")


def job(model: Path, spool: Path, engine: str, stages: dict[Stage, dict[str, Any]], **options: Any) -> Job:
    orders = tuple(StageOrder(stage, stage, config) for stage, config in stages.items())
    return Job(models.resolve(ModelEntry(id=str(model))), "bf16", 1, spool, orders, engine, options)


def results(job: Job, failures: dict[str, Failure]) -> list[Spooled]:
    return [Spooled(Path(), StageResult(o.stage, o.key, failure=failures.get(o.stage))) for o in job.orders]


PROFILE: dict[str, Any] = {"concurrency": [1, 8], "input_tokens": 100, "output_tokens": 28}


def test_an_evaluation_gets_a_smaller_batch_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    asked = job(tiny_model, tmp_path, "transformers", {"profile": PROFILE, "evaluate": {"batch_size": 16}})
    found = retry.smaller(asked, results(asked, {"evaluate": NO_ROOM}), on_gpu=True)
    assert found is not None
    (order,) = found.job.orders
    assert (order.stage, order.config["batch_size"]) == ("evaluate", 4)
    spool = Spool(tmp_path)
    with spool.writing("evaluate") as draft:
        draft.finish(StageResult("evaluate", "evaluate", metrics={"accuracy/mean": 0.5}, params={"dtype": "bfloat16"}))
    spooled = spool.find("evaluate")
    assert spooled is not None
    told = found.told(spool, spooled)
    assert told == spool.find("evaluate")
    assert told.result.params == {"dtype": "bfloat16", "evaluate.batch_size": 4}
    assert told.result.tags == {TAG.RETRIED: "out_of_memory: evaluate.batch_size 4"}
    assert told.result.metrics == {"accuracy/mean": 0.5}


def test_vllms_cache_shrinks_while_it_holds_what_runs_at_once(tiny_model: Path, tmp_path: Path) -> None:
    asked = job(tiny_model, tmp_path, "vllm", {"profile": PROFILE}, max_model_len=256, max_num_seqs=8, cpu_kv_cache_gib=1.0)
    found = retry.smaller(asked, results(asked, {"profile": NO_ROOM}), on_gpu=False)
    assert found is not None
    assert found.job.options["cpu_kv_cache_gib"] == 0.5
    assert found.params["profile"] == {"engine_options.cpu_kv_cache_gib": 0.5}
    assert retry.smaller(asked, results(asked, {"profile": NO_ROOM}), on_gpu=True) is None
    # Two layers of two heads of 64: a KiB a token, so that 1,024 tokens at once leave no half to spare of this.
    tight = job(tiny_model, tmp_path, "vllm", {"profile": PROFILE}, max_model_len=256, max_num_seqs=8, cpu_kv_cache_gib=0.0015)
    assert retry.smaller(tight, results(tight, {"profile": NO_ROOM}), on_gpu=False) is None


@pytest.mark.parametrize(
    ("engine", "stages", "failures"),
    [
        ("transformers", {"evaluate": {"batch_size": 16}}, {}),
        ("transformers", {"evaluate": {"batch_size": 16}}, {"evaluate": Failure(Reason.TIMEOUT, "late")}),
        ("transformers", {"evaluate": {"batch_size": 1}}, {"evaluate": NO_ROOM}),
        ("transformers", {"profile": PROFILE}, {"profile": NO_ROOM}),
    ],
)
def test_nothing_else_is_tried_again(
    tiny_model: Path, tmp_path: Path, engine: str, stages: dict[Stage, dict[str, Any]], failures: dict[str, Failure]
) -> None:
    asked = job(tiny_model, tmp_path, engine, stages)
    assert retry.smaller(asked, results(asked, failures), on_gpu=False) is None
