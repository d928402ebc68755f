"""The items that turned, read from a real store."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import items
from slim.errors import ComparisonError, UserError
from slim.provenance import ROOT
from slim.store import Store
from tests.answers import answers
from tests.made import run_sweep

BF16, INT4 = "bf16@vllm", "gptq-int4@vllm"
#              0  1  2  3  4  5  6
BEFORE = [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, None]
AFTER = [0.0, 1.0, 0.0, 1.0, 0.0, None, 1.0]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    return tmp_path


def generated(correct: list[float], said: list[str]) -> list[dict[str, Any]]:
    """A task whose answers are texts."""
    nothing = {"choice": None, "logprobs": [], "greedy": [], "target": "4"}
    return [
        {**row, **nothing, "text": f"It is {word}.", "extracted": word}
        for row, word in zip(answers(correct, "sums"), said, strict=True)
    ]


@pytest.fixture
def runs(store: Store, home: Path) -> dict[str, str]:
    return run_sweep(
        store,
        home,
        {
            BF16: [generated([1.0, 0.0], ["4", "5"]), answers(BEFORE, "slim_facts")],
            INT4: [generated([0.0, 1.0], ["3", "4"]), answers(AFTER, "slim_facts")],
        },
    )


def test_lost_items_are_sorted_by_how_sure_the_baseline_was(store: Store, runs: dict[str, str]) -> None:
    lost = items.lost_items(store, runs[INT4])
    # Right: -1 - item against -2; wrong: -2.5 against -1 - item / 4. A generated answer has no margin and comes last.
    assert list(zip(lost["task"], lost["doc_id"], strict=True)) == [("slim_facts", 0), ("slim_facts", 2), ("sums", 0)]
    assert list(lost["margin_nats_baseline"])[:2] == [1.0, -1.0]
    assert list(lost["margin_nats_configuration"])[:2] == [-1.5, -1.0]
    assert list(lost["choice_baseline"])[:2] == [0, 0]
    assert list(lost["choice_configuration"])[:2] == [1, 1]
    assert list(lost["head"]) == list(lost["task"])
    last = lost.iloc[2]
    assert pd.isna(last["margin_nats_baseline"])
    assert pd.isna(last["choice_baseline"])
    assert (last["target"], last["extracted_baseline"], last["extracted_configuration"]) == ("4", "4", "3")
    assert (last["text_baseline"], last["text_configuration"]) == ("It is 4.", "It is 3.")


def test_gained_items_are_the_mirror(store: Store, runs: dict[str, str]) -> None:
    gained = items.gained_items(store, runs[INT4])
    assert list(zip(gained["task"], gained["doc_id"], strict=True)) == [("slim_facts", 3), ("sums", 1)]
    assert gained["margin_nats_baseline"][0] == -2.5 + 1 + 3 / 4
    assert gained["margin_nats_configuration"][0] == -1 - 3 + 2


def test_one_task(store: Store, runs: dict[str, str]) -> None:
    assert set(items.lost_items(store, runs[INT4], "sums")["task"]) == {"sums"}
    assert len(items.gained_items(store, runs[INT4], "slim_facts")) == 1
    with pytest.raises(UserError, match="answered no task 'facts'; allowed: sums, slim_facts"):
        items.lost_items(store, runs[INT4], "facts")


def test_nothing_lost_is_an_empty_frame(store: Store, home: Path) -> None:
    same = run_sweep(store, home, {BF16: [answers([1.0, 0.0])], INT4: [answers([1.0, 0.0])]})
    lost = items.lost_items(store, same[INT4])
    assert lost.empty
    assert {"task", "doc_id", "target", "margin_nats_baseline", "text_configuration"} <= set(lost.columns)


def test_a_wrong_run_is_one_line(store: Store, home: Path, runs: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"tiny/bf16@vllm\) has no baseline"):
        items.lost_items(store, runs[BF16])
    (evaluate,) = store.search(f"tags.`mlflow.parentRunId` = '{runs[INT4]}'")
    with pytest.raises(UserError, match="is of kind 'evaluate'; give a configuration's run"):
        items.lost_items(store, evaluate.run_id)
    other = run_sweep(store, home, {"fp16@vllm": [answers([1.0])], INT4: []})
    assert other[INT4] == runs[INT4]
    with pytest.raises(ComparisonError, match="only in the baseline's samples"):
        items.lost_items(store, runs[INT4])


def test_the_call_of_the_page(store: Store, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["lost"]) == 3
    assert len(names["gained"]) == 1
    assert "slim_facts" in capsys.readouterr().out


def test_a_choice_that_is_impossible_is_no_rival() -> None:
    assert items._margin([-1.0, None, -4.0], 0) == 3
    assert pd.isna(items._margin([-1.0, None], 0))
    assert pd.isna(items._margin([None, -1.0], 0))
    assert pd.isna(items._margin([-1.0], 0))
