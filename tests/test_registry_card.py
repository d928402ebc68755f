"""What a model card says, of configurations made up."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slim import gguf, precisions
from slim.registry import card, evidence, origin
from slim.registry.origin import Origin
from slim.registry.subject import Subject
from slim.registry.words import VERSION
from slim.store import TAG, StoredRun

PARAMS = {
    "model": "org/name",
    "revision": "0" * 40,
    "precision": "gptq-int4",
    "engine": "vllm",
    "hardware": "1x NVIDIA H100",
    "quantize.group_size": "64",
    "quantize.calibration": "python-docs",
    "quantize.calibration_samples": "16",
    "quantize.max_tokens": "128",
}


def run(**fields: Any) -> StoredRun:
    values: dict[str, Any] = {
        "run_id": "r",
        "kind": "configuration",
        "name": "name/gptq-int4@vllm",
        "status": "FINISHED",
        "params": PARAMS,
        "metrics": {"accuracy/mean": 0.5, "energy/net_j_per_query": 1.5},
        "tags": {TAG.CONFIG: "name/gptq-int4@vllm"},
        "start_unix_s": 0.0,
        "end_unix_s": 1.0,
        "model_ids": (),
        "artifact_uri": "",
    }
    return StoredRun(**{**values, **fields})


def subject(**fields: Any) -> Subject:
    made = run(**fields)
    return Subject(made, {}, None, None, precisions.get(made.params["precision"]))


def front_matter(text: str) -> dict[str, Any]:
    values = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(values, dict)
    return values


def test_metadata_names_the_base_model_and_the_licence_only_where_they_are_known() -> None:
    known = front_matter(card.write([(subject(), ())], Origin("org/name", "org/name", "apache-2.0")))
    assert known["base_model"] == "org/name"
    assert known["base_model_relation"] == "quantized"
    assert known["license"] == "apache-2.0"
    assert known["tags"] == ["slim", "gptq-int4", "compressed-tensors", "vllm"]
    unknown = card.write([(subject(), ())], Origin("a directory", None, None))
    assert not {"base_model", "base_model_relation", "license"} & front_matter(unknown).keys()
    assert "not stated by the source" in unknown


def test_it_says_what_was_not_measured_and_what_was_forced() -> None:
    said = card.write([(subject(), ("it is inferior to its baseline on gsm8k",))], Origin("org/name", None, None))
    assert "Registered by force, although it is inferior to its baseline on gsm8k." in said
    assert "Energy was not measured" not in said
    quiet = card.write([(subject(metrics={}), ())], Origin("org/name", None, None))
    assert "Energy was not measured." in quiet
    assert "Accuracy was not measured." in quiet
    flagged = subject(tags={**run().tags, TAG.VALIDITY: "warm-up"})
    assert "did not pass every check: warm-up" in card.write([(flagged, ())], Origin("org/name", None, None))


def test_no_calibration_where_there_was_none() -> None:
    params = {
        **{k: v for k, v in PARAMS.items() if not k.startswith("quantize.")},
        "precision": "bnb-nf4",
        "engine": "transformers",
    }
    assert "None: the weights are rounded without looking at data." in card.write(
        [(subject(params=params), ())], Origin("m", None, None)
    )
    original = subject(params={**params, "precision": "bf16"})
    said = card.write([(original, ())], Origin("org/name", "org/name", None))
    assert "None: nothing was quantized." in said
    assert "base_model_relation" not in front_matter(said)


@given(
    title=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40),
    licence=st.text("abc-.0123456789", min_size=1, max_size=10),
    text=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40),
)
def test_no_text_breaks_the_metadata_or_a_table(title: str, licence: str, text: str) -> None:
    params = {**PARAMS, "model": text or "m", "quantize.ignore": text}
    said = card.write([(subject(params=params), ())], Origin(title, None, licence))
    assert front_matter(said)["license"] == licence
    rows = [line for line in said.split("\n") if line.startswith("| layers left")]
    assert all(row.replace(r"\|", "").count("|") == 3 for row in rows)


def test_tags_and_description_leave_out_what_is_unknown() -> None:
    tags = evidence.tags(subject(), study="s", model_id="m-1", licence=None, forced=())
    assert tags["slim.metric.energy.net_j_per_query"] == "1.5"
    assert not {VERSION.LICENCE, VERSION.FORCED, VERSION.SWEEP_RUN, VERSION.COMMIT} & tags.keys()
    assert all(tags.values())
    assert "1.50 J" in evidence.description(subject(), forced=())


@pytest.mark.parametrize(
    ("header", "title", "repository", "licence"),
    [
        (
            {"general.name": "A run of training", "general.organization": "O", "general.license": "mit"},
            "short of O",
            None,
            "mit",
        ),
        ({"general.base_model.0.repo_url": "https://huggingface.co/org/name"}, "short", "org/name", "known"),
        ({"general.base_model.0.repo_url": "https://elsewhere/org/name", "general.license": 7}, "short", None, "known"),
    ],
)
def test_a_gguf_file_says_what_it_is(
    header: dict[str, Any], title: str, repository: str | None, licence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "read_header", lambda path: gguf.Header(header, ()))
    found = origin._gguf(Path("x.gguf"), "short", "known")
    assert (found.title, found.repository, found.licence) == (title, repository, licence)
    assert "quantized once before" in found.remark


def test_a_source_that_is_gone_leaves_what_was_known(tmp_path: Path) -> None:
    gone = subject(params={**PARAMS, "model": str(tmp_path / "gone"), "revision": "sha256:1"})
    assert origin.trace(gone, "mit") == Origin(str(tmp_path / "gone"), None, "mit")


def test_a_directory_says_it_in_its_card(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    model = tmp_path / "mine"
    model.mkdir()
    for file in tiny_model.iterdir():
        shutil.copy2(file, model)
    of = subject(params={**PARAMS, "model": str(model), "revision": "sha256:1"})
    assert origin.trace(of) == Origin("mine", None, None)
    for text, repository, licence in (
        ("---\nlicense: mit\nbase_model: org/name\n---\n# Mine", "org/name", "mit"),
        ("---\nlicense: [mit]\nbase_model: [a/b, c/d]\n---\n", None, None),
        ("---\n{\n---\n", None, None),
        ("# No metadata", None, None),
    ):
        (model / "README.md").write_text(text)
        assert origin.trace(of) == replace(Origin("mine", None, None), repository=repository, licence=licence)
