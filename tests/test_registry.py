"""Registering what a study recommends, on a SQLite store and on a real MLflow server over HTTP."""

import itertools
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient

from entrypoints import register as entry
from slim import checkpoint as checkpoints
from slim import registry
from slim.errors import ConfigError, StoreError
from slim.registry import VERSION, Question
from slim.registry.versions import Registry
from slim.store import TAG, Store
from slim.store.checkpoints import local_directory
from tests import registrable
from tests.registrable import Made, study
from tests.servers import mlflow_server

QUANTIZED, OTHER, ORIGINAL = "bnb-nf4@transformers", "bnb-int8@transformers", "bf16@transformers"
SERVED: dict[str, Path] = {}
"""Where a test server keeps artifacts, by its address."""
everywhere = pytest.mark.parametrize("store", ["sqlite", "server"], indirect=True)
_names = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """The address of an MLflow server."""
    home = tmp_path_factory.mktemp("server")
    copy_database(empty_database, home)
    with mlflow_server(home, "mlflow.db") as address:
        SERVED[address] = home / "served"
        yield address


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, empty_database: Path) -> Store:
    """A SQLite store of a test's own, or the server that tests share, each with a model name of its own."""
    if getattr(request, "param", "sqlite") == "server":
        opened = Store.open(request.getfixturevalue("server"), "served")
    else:
        copy_database(empty_database, tmp_path)
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            location = (tmp_path / "artifacts").as_uri()
            database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'slim'", [location])
        opened = Store.open(f"sqlite:///{tmp_path / 'mlflow.db'}", "slim")
    assert opened is not None
    return opened


def copy_database(database: Path, home: Path) -> None:
    with sqlite3.connect(database) as source, sqlite3.connect(home / "mlflow.db") as target:
        source.backup(target)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def make(store: Store, home: Path, model: Path, **configurations: Mapping[str, Any]) -> Made:
    """Three configurations of a model whose name no other test uses; keywords give one more tags or metrics."""
    extra = {name.replace("_", "-") + "@transformers": values for name, values in configurations.items()}
    everything = {name: extra.get(name, {}) for name in (ORIGINAL, QUANTIZED, OTHER)}
    return registrable.make(store, home, model, f"tiny{next(_names)}", everything)


@pytest.fixture
def made(store: Store, tmp_path: Path, tiny_model: Path) -> Made:
    return make(store, tmp_path, tiny_model)


def name_of(made: Made) -> str:
    return f"slim-{made.source.name}"


def register(made: Made, run_id: str, **fields: Any) -> registry.Registration:
    return registry.register(Question(run_id, **fields), made.store.tracking_uri)


def logged_models(made: Made) -> list[Any]:
    found = made.store.client.search_logged_models([made.store.experiment_id], max_results=1000)
    return [m for m in found if m.params["model"] == str(made.source)]


def state(made: Made) -> dict[str, Any]:
    """All that the registry says about the model, times included, and what lies beside its weights."""
    client: MlflowClient = made.store.client
    models = {m.name: (m.aliases, m.tags, m.description) for m in client.search_registered_models(f"name = '{name_of(made)}'")}
    versions = [
        (v.version, v.source, v.run_id, v.tags, v.description, v.last_updated_timestamp)
        for v in client.search_model_versions(f"name = '{name_of(made)}'")
    ]
    logged = {}
    for m in logged_models(made):
        files = {f.path: f.file_size for f in client.list_logged_model_artifacts(m.model_id)}
        logged[m.model_id] = (m.tags, files)
    return {"models": models, "versions": versions, "logged": logged}


def invoke(made: Made, *words: str) -> Result:
    return CliRunner().invoke(entry.main, ["--tracking-uri", made.store.tracking_uri, *words])


def test_a_recommended_checkpoint_becomes_a_version_with_its_evidence(made: Made, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": OTHER, "energy-constrained": None})
    done = register(made, found.run_id)
    assert [(v.configuration, v.deployments, v.change) for v in done.versions] == [
        (f"{made.source.name}/{QUANTIZED}", ("balanced",), "registered"),
        (f"{made.source.name}/{OTHER}", ("latency-critical",), "registered"),
    ]
    assert done.unanswered == {"energy-constrained": "energy-constrained: nothing qualifies."}
    client: MlflowClient = made.store.client
    version = client.get_model_version_by_alias(name_of(made), "balanced")
    configuration = made.store.get(made.runs[QUANTIZED])
    (quantize,) = made.store.search(f"tags.`{TAG.KEY}` = 'quantize-{made.source.name}-bnb-nf4-transformers'")
    expected = {
        VERSION.CONFIG: f"{made.source.name}/{QUANTIZED}",
        VERSION.MODEL: str(made.source),
        VERSION.PRECISION: "bnb-nf4",
        VERSION.ENGINE: "transformers",
        VERSION.HARDWARE: "AMD EPYC (2 cores)",
        VERSION.CONFIGURATION_RUN: configuration.run_id,
        VERSION.STUDY_RUN: found.run_id,
        VERSION.SWEEP_RUN: configuration.tags[TAG.PARENT],
        VERSION.STAGE_RUNS["quantize"]: quantize.run_id,
        VERSION.CHECKPOINT: quantize.model_ids[0],
        VERSION.LICENCE: "mit",
        "slim.metric.accuracy.mean": "0.75",
        "slim.metric.latency.e2e_mean_ms": "600",
    }
    assert expected.items() <= version.tags.items()
    assert VERSION.STAGE_RUNS["profile"] not in version.tags
    assert VERSION.FORCED not in version.tags
    assert version.run_id == quantize.run_id
    assert version.source == f"models:/{quantize.model_ids[0]}"
    assert "600.00 ms" in version.description
    tags = client.get_registered_model(name_of(made)).tags
    assert tags == {
        VERSION.MODEL: str(made.source),
        "slim.study.balanced": found.run_id,
        "slim.study.latency-critical": found.run_id,
    }


@everywhere
def test_the_same_again_changes_nothing(made: Made, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": QUANTIZED, "accuracy-critical": ORIGINAL})
    register(made, found.run_id)
    before = state(made)
    assert len(before["versions"]) == 2
    again = register(made, found.run_id)
    assert [(v.change, v.moved) for v in again.versions] == [("unchanged", {})] * 2
    assert state(made) == before


def test_a_version_is_a_directory_that_anything_loads(made: Made, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = study(made, tmp_path, {"balanced": QUANTIZED, "accuracy-critical": ORIGINAL})
    register(made, found.run_id)
    for alias in ("balanced", "accuracy-critical"):
        client: MlflowClient = made.store.client
        where = client.get_model_version_download_uri(
            name_of(made), client.get_model_version_by_alias(name_of(made), alias).version
        )
        path = Path(download_artifacts(artifact_uri=where, tracking_uri=made.store.tracking_uri))
        checkpoints.load(path, verify=True)
        AutoModelForCausalLM.from_pretrained(path)
        assert AutoTokenizer.from_pretrained(path).chat_template


def test_the_card_tells_what_was_measured_and_leaves_the_hashes_alone(made: Made, tmp_path: Path) -> None:
    register(made, study(made, tmp_path, {"balanced": QUANTIZED}).run_id)
    version = made.store.client.get_model_version_by_alias(name_of(made), "balanced")
    location = made.store.client.get_logged_model(version.tags[VERSION.CHECKPOINT]).artifact_location
    path = Path(download_artifacts(artifact_uri=location, tracking_uri=made.store.tracking_uri))
    checkpoints.load(path, verify=True)
    card = ModelCard((path / registry.CARD).read_text(encoding="utf-8"))
    assert card.data.license == "mit"
    assert card.data.library_name == "transformers"
    assert {"slim", "bnb-nf4", "bitsandbytes"} == set(card.data.tags or [])
    assert "| latency/e2e_mean_ms | 600.00 ms | 550.00 to 650.00 | 600.00 ms |" in card.text
    # 1.96 standard errors of 0.05 to either side.
    assert "| accuracy/slim_facts | 0.7500 | 0.6520 to 0.8480 | 0.7500 |" in card.text
    assert made.runs[QUANTIZED] in card.text
    assert "AMD EPYC (2 cores)" in card.text


@everywhere
def test_original_weights_are_written_once_for_all_configurations(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    made = registrable.make(store, tmp_path, tiny_model, f"tiny{next(_names)}", {ORIGINAL: {}, "bf16@vllm": {}})
    register(made, study(made, tmp_path, {"balanced": ORIGINAL}).run_id)
    second = study(made, tmp_path, {"balanced": ORIGINAL, "latency-critical": "bf16@vllm"})
    done = register(made, second.run_id)
    # The first one's card tells of the second too, so it is new.
    assert [v.change for v in done.versions] == ["unchanged", "registered"]
    (model_id,) = {v.model_id for v in done.versions}
    logged = logged_models(made)
    assert [m.model_id for m in logged] == [model_id]
    local = local_directory(logged[0].artifact_location)
    if local is not None:
        assert not list(local.parents[2].rglob(".original-*"))
        # A user's own directory may be edited, and must not change what is registered.
        assert (local / "model.safetensors").stat().st_ino != (made.source / "model.safetensors").stat().st_ino
        card = (local / registry.CARD).read_text(encoding="utf-8")
        assert all(f"## Measured as `{made.source.name}/{name}`" in card for name in made.runs)


def test_an_alias_moves_only_when_a_study_says_so(made: Made, tmp_path: Path) -> None:
    first = study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": QUANTIZED, "memory-constrained": QUANTIZED})
    second = study(made, tmp_path, {"balanced": OTHER, "latency-critical": None, "memory-constrained": OTHER})
    register(made, first.run_id)
    done = register(made, second.run_id, objectives=("balanced",))
    assert [(v.version, v.moved) for v in done.versions] == [(2, {"balanced": 1})]
    model = made.store.client.get_registered_model(name_of(made))
    assert {a: int(v) for a, v in model.aliases.items()} == {"balanced": 2, "latency-critical": 1, "memory-constrained": 1}
    assert model.tags["slim.study.balanced"] == second.run_id
    assert model.tags["slim.study.memory-constrained"] == first.run_id
    back = register(made, first.run_id)
    assert [(v.version, v.change, v.moved) for v in back.versions] == [(1, "unchanged", {"balanced": 2})]


@pytest.mark.parametrize(
    ("store", "method", "call"),
    [
        ("sqlite", "create_model_version", 1),
        ("sqlite", "create_model_version", 2),
        ("sqlite", "set_registered_model_alias", 1),
        ("sqlite", "set_registered_model_alias", 2),
        ("server", "set_registered_model_alias", 2),
    ],
    indirect=["store"],
)
def test_a_failure_half_way_leaves_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    # A signal comes at any time too.
    error = RuntimeError("gone") if call == 1 else KeyboardInterrupt("SIGTERM")
    before = state(made)
    found = study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": OTHER})
    calls = itertools.count(1)
    true = getattr(MlflowClient, method)

    def failing(self: MlflowClient, *arguments: Any, **keywords: Any) -> Any:
        if next(calls) == call:
            raise error
        return true(self, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, method, failing)
        with pytest.raises((StoreError, KeyboardInterrupt)):
            register(made, found.run_id)
    after = state(made)
    assert (after["models"], after["versions"]) == ({}, [])
    assert {k: v[0] for k, v in after["logged"].items()} == {k: v[0] for k, v in before["logged"].items()}
    assert [v.change for v in register(made, found.run_id).versions] == ["registered"] * 2


def test_aliases_that_were_there_come_back_after_a_failure(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(made, study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": QUANTIZED}).run_id)
    before = state(made)
    true = MlflowClient.set_registered_model_alias

    def failing(self: MlflowClient, name: str, alias: str, version: str) -> Any:
        if alias == "latency-critical":
            raise RuntimeError("gone")
        return true(self, name, alias, version)

    second = study(made, tmp_path, {"balanced": OTHER, "latency-critical": OTHER})
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "set_registered_model_alias", failing)
        with pytest.raises(StoreError, match="latency-critical"):
            register(made, second.run_id)
    after = state(made)
    assert after["versions"] == before["versions"]
    assert after["models"] == before["models"]


def flip(made: Made, name: str, file: str) -> None:
    """Change the last byte of a stored checkpoint's file, as a disk or a person might."""
    (quantize,) = made.store.search(f"tags.`{TAG.KEY}` = 'quantize-{made.source.name}-{name.replace('@', '-')}'")
    model = made.store.client.get_logged_model(quantize.model_ids[0])
    path = stored(made, model.artifact_location) / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)


def stored(made: Made, location: str) -> Path:
    """Where the files of an artifact location lie on this disk, a test server's own included."""
    local = local_directory(location)
    return local if local is not None else SERVED[made.store.tracking_uri] / location.partition("mlflow-artifacts:/")[2]


GATES: dict[str, tuple[dict[str, Any], str]] = {
    "flagged": ({"tags": {TAG.VALIDITY: "warm-up"}}, "did not pass every check (warm-up)"),
    "inferior": (
        {"tags": {f"{TAG.VERDICT}gsm8k": "inferior", f"{TAG.VERDICT}mmlu": "undecided"}},
        "inferior to its baseline on gsm8k",
    ),
    "not ok": ({"metrics": {"validity/ok": 0.0}}, "did not pass every check"),
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_refuses_and_force_is_recorded(store: Store, tmp_path: Path, tiny_model: Path, gate: str) -> None:
    extra, reason = GATES[gate]
    made = make(store, tmp_path, tiny_model, bnb_nf4=extra)
    found = study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": OTHER})
    done = register(made, found.run_id)
    assert [(r.configuration, r.deployments, r.final) for r in done.refused] == [
        (f"{made.source.name}/{QUANTIZED}", ("balanced",), False)
    ]
    assert reason in done.refused[0].reasons[0]
    # The others are registered all the same.
    assert set(store.client.get_registered_model(name_of(made)).aliases) == {"latency-critical"}
    forced = register(made, found.run_id, force=True)
    assert not forced.refused
    version = store.client.get_model_version_by_alias(name_of(made), "balanced")
    assert reason in version.tags[VERSION.FORCED]
    assert "Registered by force" in version.description


def test_a_failed_configuration_is_refused(made: Made, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": QUANTIZED})
    made.store.finish(made.runs[QUANTIZED], failure="engine_crash", message="died")
    (refused,) = register(made, found.run_id).refused
    assert refused.reasons == ("its run is FAILED: engine_crash",)


@pytest.mark.parametrize(
    ("store", "file"),
    [
        ("sqlite", "model.safetensors"),
        ("sqlite", "tokenizer.json"),
        ("sqlite", "slim_checkpoint.json"),
        ("server", "model.safetensors"),
    ],
    indirect=["store"],
)
def test_files_that_changed_are_refused(made: Made, tmp_path: Path, file: str) -> None:
    flip(made, QUANTIZED, file)
    found = study(made, tmp_path, {"balanced": QUANTIZED})
    before = state(made)
    (refused,) = register(made, found.run_id).refused
    assert not refused.final
    assert "not those that were measured" in refused.reasons[0]
    assert file in refused.reasons[0]
    assert state(made) == before
    register(made, found.run_id, force=True)
    version = made.store.client.get_model_version_by_alias(name_of(made), "balanced")
    assert file in version.tags[VERSION.FORCED]


def test_a_checkpoint_that_is_gone_cannot_be_forced(made: Made, tmp_path: Path) -> None:
    (quantize,) = made.store.search(f"tags.`{TAG.KEY}` = 'quantize-{made.source.name}-bnb-nf4-transformers'")
    folder = stored(made, made.store.client.get_logged_model(quantize.model_ids[0]).artifact_location)
    shutil.rmtree(folder)
    found = study(made, tmp_path, {"balanced": QUANTIZED})
    (refused,) = register(made, found.run_id, force=True).refused
    assert refused.final
    assert made.store.client.search_registered_models(f"name = '{name_of(made)}'") == []


def test_original_weights_that_changed_are_refused(made: Made, tmp_path: Path) -> None:
    (made.source / "generation_config.json").write_text("{}")
    found = study(made, tmp_path, {"balanced": ORIGINAL})
    (refused,) = register(made, found.run_id, force=True).refused
    assert refused.final
    assert "not those that were measured" in refused.reasons[0]


def test_names_of_others_are_refused(made: Made, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": QUANTIZED})
    client: MlflowClient = made.store.client
    other, foreign = f"{name_of(made)}-other", f"{name_of(made)}-foreign"
    client.create_registered_model(other, tags={VERSION.MODEL: "elsewhere"})
    client.create_registered_model(foreign)
    from slim.registry.versions import _as_default

    with _as_default(made.store.tracking_uri):
        client.create_model_version(foreign, f"models:/{made.store.get(_quantize(made)).model_ids[0]}")
    for name, said in ((other, "is of 'elsewhere'"), (foreign, "not of this program"), ("a/b", "without / and :")):
        with pytest.raises(ConfigError, match=said):
            register(made, found.run_id, name=name)
    # An empty model of the name, which a killed process may leave, is taken.
    client.create_registered_model(f"{name_of(made)}-empty")
    assert register(made, found.run_id, name=f"{name_of(made)}-empty").versions[0].version == 1


def _quantize(made: Made) -> str:
    (run,) = made.store.search(f"tags.`{TAG.KEY}` = 'quantize-{made.source.name}-bnb-nf4-transformers'")
    return run.run_id


def test_each_model_of_a_study(made: Made, store: Store, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "second").mkdir()
    second = make(store, tmp_path / "second", tiny_model)
    both = Made(store, made.source, {**made.runs, "second": second.runs[QUANTIZED]}, made.spool)
    found = study(both, tmp_path, {"balanced": QUANTIZED}, {"a": {"balanced": OTHER}, "b": {"balanced": "second"}})
    assert [v.name for v in register(made, found.run_id, dry_run=True).versions] == [name_of(made)]
    done = register(made, found.run_id, each_model=True)
    assert [(v.name, v.configuration) for v in done.versions] == [
        (name_of(made), f"{made.source.name}/{OTHER}"),
        (name_of(second), f"{second.source.name}/{QUANTIZED}"),
    ]
    with pytest.raises(ConfigError, match="one base model"):
        register(made, found.run_id, each_model=True, name="mine")


def test_two_models_of_one_short_name_are_refused_in_one_call(made: Made, store: Store, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "second").mkdir()
    extra = {ORIGINAL: {}, QUANTIZED: {}}
    second = registrable.make(store, tmp_path / "second", tiny_model, made.source.name, extra)
    both = Made(store, made.source, {**made.runs, "second": second.runs[QUANTIZED]}, made.spool)
    found = study(both, tmp_path, {"balanced": QUANTIZED}, {"a": {"balanced": OTHER}, "b": {"balanced": "second"}})
    before = state(made)
    with pytest.raises(ConfigError) as refused:
        register(made, found.run_id, each_model=True)
    assert str(made.source) in str(refused.value) and str(second.source) in str(refused.value)
    assert state(made) == before


def test_a_registered_model_is_not_given_to_another_base_model(store: Store) -> None:
    registered = Registry(store)
    name = f"slim-x{next(_names)}"
    registered.ensure_model(name, "", {VERSION.MODEL: "a/x"})
    with pytest.raises(ConfigError, match="is of 'a/x', not of 'b/x'"):
        registered.ensure_model(name, "", {VERSION.MODEL: "b/x"})


def test_wrong_input_is_one_line(made: Made, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": None})
    before = state(made)
    cases = {
        ("nonsense",): "is no run id",
        ("0" * 32,): "there is no such run",
        (made.runs[QUANTIZED],): "is a run of kind 'configuration'",
        (found.run_id, "--objective", "fastest"): "allowed: balanced, latency-critical",
        (found.run_id, "--objective", "latency-critical"): "recommends nothing",
        (found.run_id, "--name", "a:b"): "without / and :",
        (found.run_id, "--push-to-hub", "not a name"): "neither an owner nor a repository",
    }
    for (study_id, *words), said in cases.items():
        result = invoke(made, "--study", study_id, *words)
        assert result.exit_code == 2, result.output
        assert said in result.output
        assert result.output.count("\n") == 1
    assert state(made) == before


def test_a_study_whose_tags_and_file_disagree_is_refused(made: Made, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": QUANTIZED})
    made.store.log(found.run_id, tags={f"{TAG.RECOMMENDED}balanced": made.runs[OTHER]})
    with pytest.raises(ConfigError, match="run the study again"):
        register(made, found.run_id)


def test_the_entry_point(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    made = make(store, tmp_path, tiny_model, bnb_int8={"tags": {f"{TAG.VERDICT}gsm8k": "inferior"}})
    found = study(made, tmp_path, {"balanced": QUANTIZED, "latency-critical": OTHER})
    before = state(made)
    result = invoke(made, "--study", found.run_id, "--dry-run", "true")
    assert result.exit_code == 1
    assert "would be registered" in result.output
    assert state(made) == before
    result = invoke(made, "--study", found.run_id, "--objective", "balanced", "--name", "")
    assert result.exit_code == 0, result.output
    assert f"models:/{name_of(made)}@balanced (new)" in result.output
    result = invoke(made, "--study", found.run_id)
    assert result.exit_code == 1
    assert "Refused" in result.output
    assert "--force registers it all the same" in result.output
    assert f"models:/{name_of(made)}@balanced (as before)" in result.output
    result = invoke(made, "--study", found.run_id, "--force")
    assert result.exit_code == 0, result.output
    assert "by force, although" in result.output
