"""The table at the end of a sweep."""

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


def test_nothing_is_nothing() -> None:
    assert summary.summarize(frame.from_runs([])).rows == ()
