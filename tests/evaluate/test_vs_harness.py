"""The verdict of the benchmark against the harness's own backend."""

from typing import Any

import pytest

from benchmarks.evaluate_vs_harness import report


def side(wall_s: float, items: list[dict[str, Any]], name: str = "gsm8k") -> dict[str, Any]:
    answers = {f"{name}:{place}": item for place, item in enumerate(items)}
    return {"tasks": {name: {"wall_s": wall_s, "answering_s": wall_s, "items": answers}}}


@pytest.mark.parametrize(
    ("extracted_alike", "wall_s", "status"), [(100, 10.0, 0), (90, 10.0, 0), (89, 10.0, 1), (0, 10.0, 1), (100, 21.0, 1)]
)
def test_generated_answers_have_to_agree_too(
    extracted_alike: int, wall_s: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = [{"text": f"It is {n}", "extracted": str(n)} for n in range(100)]
    # Another text may hold the same answer.
    ours = [{"text": f"So {n}", "extracted": str(n) if n < extracted_alike else "[invalid]"} for n in range(100)]
    assert report({"ours": side(wall_s, ours), "theirs": side(20.0, theirs)}, {"gsm8k": 1.0}) == status
    told = capsys.readouterr().out
    assert f"0 texts and {extracted_alike} extracted answers alike (at least 90.0% of these)" in told
    assert told.rstrip().endswith("missed" if status else "met")


@pytest.mark.parametrize(("alike", "status"), [(1000, 0), (999, 0), (998, 1)])
def test_choices_have_to_agree(alike: int, status: int) -> None:
    theirs = [{"choice": 0, "logprobs": [-1.0, -2.0]}] * 1000
    ours = [{"choice": int(n >= alike), "logprobs": [-1.0, -2.0]} for n in range(1000)]
    assert report({"ours": side(1.0, ours, "mmlu"), "theirs": side(20.0, theirs, "mmlu")}, {"mmlu": 4.0}) == status
