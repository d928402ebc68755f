"""The table at the end of a sweep."""

import json
from dataclasses import replace

from analysis import frame, summary
from slim.store import TAG, StoredRun


def run(name: str, status: str = "FINISHED", hardware: str = "CPU", validity: str = "", **metrics: float) -> StoredRun:
    keys = {"accuracy": "accuracy/mean", "e2e": "latency/e2e_mean_ms", "size": "size/checkpoint_gb"}
    tags = {TAG.CONFIG: name, **({TAG.VALIDITY: validity} if validity else {})}
    return StoredRun(
        f"id-{name}",
        "configuration",
        name,
        status,
        {"hardware": hardware},
        {keys[k]: v for k, v in metrics.items()},
        tags,
        0.0,
        1.0,
        (),
        "",
    )


def test_fronts_names_and_flags() -> None:
    made = summary.summarize(
        frame.from_runs(
            [
                run("m/bf16@vllm", accuracy=0.8, e2e=100.0, size=2.0),
                run("m/gptq-int8@vllm", accuracy=0.7, e2e=90.0, size=1.0, validity="warmup_unsettled"),
                run("m/gptq-int4@vllm", accuracy=0.6, e2e=95.0, size=0.5),
                run("m/bnb-nf4@transformers", status="FAILED", accuracy=0.9),
            ]
        )
    )
    assert made.title == "m on CPU"
    assert made.headers == ("configuration", "accuracy", "E2E ms", "size GB")
    assert made.rows[0] == ("bf16@vllm", "0.8000", "100.00", "2.000")
    assert made.rows[3] == ("bnb-nf4@transformers", "0.9000", "-", "-")
    assert made.fronts == {
        "accuracy against latency": ("bf16@vllm", "gptq-int8@vllm"),
        "accuracy against size": ("bf16@vllm", "gptq-int8@vllm", "gptq-int4@vllm"),
    }
    assert made.flagged == {"gptq-int8@vllm": "warmup_unsettled"}


def test_several_models_keep_their_names_and_several_machines_make_no_front() -> None:
    made = summary.summarize(
        frame.from_runs([run("a/bf16@vllm", accuracy=0.8, e2e=1.0), run("b/bf16@vllm", accuracy=0.7, e2e=1.0, hardware="H100")])
    )
    assert [row[0] for row in made.rows] == ["a/bf16@vllm", "b/bf16@vllm"]
    assert made.fronts == {}


def compared(name: str, tags: dict[str, str], **metrics: float) -> StoredRun:
    made = run(name)
    settings = json.dumps({"baseline": "1", "margin": 0.02, "confidence": 0.95, "resamples": 100})
    return replace(made, tags={**made.tags, TAG.COMPARISON: settings, **tags}, metrics=metrics)


def test_verdicts_stand_by_task() -> None:
    int8 = compared(
        "m/gptq-int8@vllm",
        {"slim.verdict.mmlu": "non-inferior", "slim.verdict.gsm8k": "undecided"},
        **{
            "impact/mmlu_difference": -0.004,
            "fidelity/mmlu_items_to_decide": 3000.0,
            "impact/gsm8k_difference": -0.0163,
            "fidelity/gsm8k_items_to_decide": 12345.0,
            "fidelity/flip_rate": 0.0312,
        },
    )
    int4 = compared(
        "m/gptq-int4@vllm",
        {"slim.verdict.mmlu": "inferior", "slim.verdict.gsm8k": "undecided"},
        **{"impact/mmlu_difference": -0.05},
    )
    nf4 = compared("m/bnb-nf4@vllm", {TAG.COMPARISON_REFUSED: "task 'mmlu', item 3: prompts differ (prompt_hash)"})
    made = summary.summarize(frame.from_runs([run("m/bf16@vllm"), int8, int4, nf4]))
    assert made.verdicts == summary.Verdicts(
        "accuracy against the baseline, margin 0.02 at 0.95 confidence",
        ("configuration", "mmlu", "gsm8k"),
        (
            ("gptq-int8@vllm", "-0.0040 non-inferior", "-0.0163 undecided, needs 12,345 items"),
            ("gptq-int4@vllm", "-0.0500 inferior", "undecided"),
        ),
    )
    assert made.refused == {"bnb-nf4@vllm": "task 'mmlu', item 3: prompts differ (prompt_hash)"}
    assert made.headers == ("configuration", "flips")
    assert [row[1] for row in made.rows] == ["-", "0.0312", "-", "-"]


def test_verdicts_of_different_margins_name_none() -> None:
    one = compared("m/gptq-int8@vllm", {"slim.verdict.mmlu": "inferior"})
    settings = json.dumps({"baseline": "1", "margin": 0.1, "confidence": 0.95, "resamples": 100})
    other = compared("m/gptq-int4@vllm", {"slim.verdict.mmlu": "inferior", TAG.COMPARISON: settings})
    made = summary.summarize(frame.from_runs([one, other])).verdicts
    assert made is not None
    assert made.title == "accuracy against the baseline"


def test_nothing_is_nothing() -> None:
    made = summary.summarize(frame.from_runs([]))
    assert (made.rows, made.verdicts, made.refused) == ((), None, {})
