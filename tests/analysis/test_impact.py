"""Configurations against their baselines: who is compared with whom, what is missing and why, means over models."""

import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import frame, impact, published
from slim.store import TAG, StoredRun


def run(
    name: str, run_id: str = "", status: str = "FINISHED", baseline: str = "", failure: str = "", **metrics: float
) -> StoredRun:
    """A configuration ``model/precision@engine:hardware``; metric names with ``__`` for a slash."""
    config, _, hardware = name.partition(":")
    model, _, rest = config.partition("/")
    precision, _, engine = rest.partition("@")
    params = {"model": model, "precision": precision, "engine": engine, "hardware": hardware or "H100"}
    tags = {TAG.CONFIG: config, **({TAG.BASELINE: baseline} if baseline else {}), **({TAG.FAILURE: failure} if failure else {})}
    values = {key.replace("__", "/"): value for key, value in metrics.items()}
    return StoredRun(run_id or name, "configuration", config, status, params, values, tags, 0.0, 1.0, (), "")


def compared(*runs: StoredRun) -> pd.DataFrame:
    return impact.against_baselines(frame.from_runs(runs))


def test_the_baseline_is_of_the_same_model_engine_and_hardware() -> None:
    found = compared(
        run("m/bf16@vllm", latency__e2e_mean_ms=10.0, accuracy__mmlu=0.5),
        run("m/bf16@transformers", latency__e2e_mean_ms=40.0, accuracy__mmlu=0.5),
        run("m/bf16@vllm:A100", latency__e2e_mean_ms=15.0),
        run("m/gptq-int8@vllm", latency__e2e_mean_ms=5.0, accuracy__mmlu=0.45, fidelity__flip_rate=0.1),
        run("m/bnb-nf4@transformers", latency__e2e_mean_ms=50.0),
        run("m/gptq-int8@vllm:A100", latency__e2e_mean_ms=5.0),
    )
    assert found["baseline"].tolist() == [
        "m/bf16@vllm",
        "m/bf16@transformers",
        "m/bf16@vllm:A100",
        "m/bf16@vllm",
        "m/bf16@transformers",
        "m/bf16@vllm:A100",
    ]
    assert found["impact/speedup"].tolist() == [1, 1, 1, 2, 0.8, 3]
    assert found["is_baseline"].tolist() == [True, True, True, False, False, False]
    assert found["reason"].isna().all()
    int8 = found.loc["m/gptq-int8@vllm"]
    assert int8["impact/mmlu_drop_pct"] == pytest.approx(-10)
    assert (int8["fidelity/flip_rate"], int8["source/speedup"]) == (0.1, "latency/e2e_mean_ms")


def test_bf16_goes_before_fp16_and_a_named_baseline_before_both() -> None:
    runs = [run(f"m/{p}@vllm", accuracy__mmlu=a) for p, a in (("fp16", 0.4), ("bf16", 0.5), ("gptq-int4", 0.25))]
    assert compared(*runs)["impact/mmlu_drop_pct"].tolist() == pytest.approx([-20, 0, -50])
    assert compared(runs[0], runs[2])["impact/mmlu_drop_pct"].tolist() == pytest.approx([0, -37.5])
    named = run("m/gptq-int4@vllm", baseline="m/fp16@vllm", accuracy__mmlu=0.25)
    assert compared(*runs[:2], named)["impact/mmlu_drop_pct"].iloc[2] == pytest.approx(-37.5)


@pytest.mark.parametrize(
    ("baselines", "reason"),
    [
        ([], r"no baseline \(bf16 or fp16\) of m on vllm and H100 is among these configurations"),
        ([run("m/bf16@transformers", accuracy__mmlu=0.5)], "no baseline"),
        ([run("m/bf16@vllm", status="FAILED", failure="out_of_memory")], r"the baseline m/bf16@vllm failed \(out_of_memory\)"),
        ([run("m/bf16@vllm", status="RUNNING")], "the baseline m/bf16@vllm has the status RUNNING"),
        ([run("m/bf16@vllm", "a"), run("m/bf16@vllm", "b")], r"2 baselines fit \(a, b\), and the run names none of them"),
        ([run("m/bf16@vllm", memory__weights_mib=5.0)], "have no metric in common"),
    ],
)
def test_without_a_baseline_the_row_is_there_and_says_why(baselines: list[StoredRun], reason: str) -> None:
    row = compared(*baselines, run("m/gptq-int8@vllm", accuracy__mmlu=0.4, fidelity__flip_rate=0.1)).loc["m/gptq-int8@vllm"]
    assert pd.Series(row["reason"]).str.contains(reason).all()
    assert all(pd.isna(value) for key, value in row.items() if key.startswith("impact/"))
    assert row["fidelity/flip_rate"] == 0.1


def test_a_failed_configuration_says_so() -> None:
    found = compared(run("m/bf16@vllm", accuracy__mmlu=0.5), run("m/gptq-int8@vllm", status="FAILED", failure="timeout"))
    assert found.loc["m/gptq-int8@vllm", "reason"] == "the configuration failed (timeout)"


def test_relative_accuracy_is_a_share_of_the_baselines() -> None:
    found = impact.relative_accuracy(published.frame("bnb_llama32_1b"))
    int4 = found[(found["precision"] == "bnb-nf4") & (found["hardware"] == "T1000")].iloc[0]
    assert int4["accuracy/mmlu_stem"] == pytest.approx(0.2582 / 0.3423)
    assert int4["accuracy/mmlu"] == pytest.approx(0.2757 / 0.3770)
    assert found.loc[found["is_baseline"] & (found["hardware"] == "T1000"), "accuracy/mmlu"].tolist() == [1.0]
    assert found.loc[found["hardware"] == "T4", "accuracy/mmlu"].isna().all()


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6))
def test_means_over_models_are_those_of_statistics(times: list[float]) -> None:
    runs = [
        run(f"m{i}/{p}@vllm", latency__e2e_mean_ms=t) for i, v in enumerate(times) for p, t in (("bf16", v), ("gptq-int4", 1.0))
    ]
    (row,) = impact.by_precision(frame.from_runs(runs)).to_dict("records")
    assert (row["precision"], row["engine"], row["key"], row["n"]) == ("gptq-int4", "vllm", "impact/speedup", len(times))
    assert row["mean"] == pytest.approx(statistics.mean(times))
    if len(times) == 1:
        assert pd.isna(row["sd"])
    else:
        assert row["sd"] == pytest.approx(statistics.stdev(times), abs=1e-9)


def test_a_model_counts_once_and_hardware_is_not_pooled() -> None:
    found = impact.by_precision(
        frame.from_runs(
            [
                run("m/bf16@vllm", accuracy__mmlu=1.0),
                run("m/gptq-int4@vllm", "short", accuracy__mmlu=0.8),
                run("m/gptq-int4@vllm", "long", accuracy__mmlu=0.6),
                run("n/bf16@vllm", accuracy__mmlu=1.0),
                run("n/gptq-int4@vllm", accuracy__mmlu=0.5),
                run("n/bf16@vllm:A100", accuracy__mmlu=1.0),
                run("n/gptq-int4@vllm:A100", accuracy__mmlu=0.9),
            ]
        )
    ).set_index("hardware")
    assert found["n"].to_dict() == {"H100": 2, "A100": 1}
    assert found["mean"].to_dict() == pytest.approx({"H100": -40.0, "A100": -10.0})


def test_what_the_engine_does_is_apart() -> None:
    table = frame.from_runs(
        [
            run("m/bf16@vllm", latency__e2e_mean_ms=10.0),
            run("m/gptq-int8@vllm", latency__e2e_mean_ms=5.0),
            run("m/bf16@transformers", latency__e2e_mean_ms=40.0),
            run("n/fp16@transformers", latency__e2e_mean_ms=40.0),
            run("n/bf16@vllm", latency__e2e_mean_ms=10.0),
            run("o/bf16@vllm", latency__e2e_mean_ms=10.0),
            run("o/bf16@transformers:A100", latency__e2e_mean_ms=10.0),
        ]
    )
    found = impact.engine_effect(table).set_index("model")
    assert found.index.tolist() == ["m", "n"]
    assert found.loc["m", "impact/speedup"] == 4
    assert (found.loc["m", "reference_engine"], found.loc["m", "engine"]) == ("transformers", "vllm")
    assert found.loc["n", "reason"] == "the baselines differ in precision: fp16 and bf16"
    assert pd.isna(found.loc["n", "impact/speedup"])


def test_nothing_gives_empty_tables() -> None:
    empty = frame.from_runs([])
    for compute in (impact.against_baselines, impact.relative_accuracy, impact.by_precision, impact.engine_effect):
        found = compute(empty)
        assert found.empty
        assert len(found.columns)


@settings(max_examples=15)
@given(st.permutations(range(13)))
def test_order_does_not_matter(order: list[int]) -> None:
    table = published.frame("slim_eval").drop(columns="baseline")
    plain, mixed = (impact.against_baselines(t) for t in (table, table.iloc[order]))
    pd.testing.assert_frame_equal(mixed.loc[plain.index, plain.columns], plain, check_dtype=False)


def test_stored_and_computed_figures_are_the_same() -> None:
    for name in published.STUDIES:
        table = published.frame(name)
        found = impact.against_baselines(table)
        keys = [key for key in found.columns if key.startswith("impact/")]
        own = table["baseline"].notna()
        pd.testing.assert_frame_equal(
            found.loc[own, keys].astype(float), table.loc[own].reindex(columns=keys).astype(float), check_names=False
        )
