"""Published figures: conversions, relative figures as printed, what is dominated, keeping them in a store."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import frame, published
from slim import metrics
from slim.errors import UserError
from slim.store import TAG, Store, keep

SLIM_EVAL = published.frame("slim_eval").set_index("configuration")
BNB = published.frame("bnb_llama32_1b")


def test_units_are_converted() -> None:
    mistral = SLIM_EVAL.loc["mistral-7b-instruct-v0.3/fp16@vllm"]
    assert mistral["size/checkpoint_gb"] == pytest.approx(13.50 * 2**30 / 1e9)
    assert mistral["latency/amortized_b8_ms"] == pytest.approx(183)
    assert mistral["energy/net_kwh"] == 0.0384
    assert mistral["memory/peak_mib"] == 74883
    # Mistral 7B has 7,248,023,552 parameters: two bytes for each are the size only if it was printed in GiB.
    assert mistral["size/checkpoint_gb"] == pytest.approx(2 * 7.248023552, abs=0.005 * 2**30 / 1e9)


def test_rows_are_configurations_of_one_hardware_with_their_baselines() -> None:
    assert len(SLIM_EVAL) == 13
    assert set(BNB["hardware"]) == {"T1000", "T4"}
    assert BNB.groupby("hardware").size().to_dict() == {"T1000": 4, "T4": 4}
    for _, row in BNB[BNB["baseline"].notna()].iterrows():
        baseline = BNB.loc[row["baseline"]]
        assert (baseline["precision"], baseline["hardware"]) == ("bf16", row["hardware"])
    assert BNB["baseline"].isna().sum() == 2
    assert set(SLIM_EVAL["precision"]) == {"fp16", "gptq-int8", "gptq-int4"}


def test_what_is_not_printed_is_missing() -> None:
    assert SLIM_EVAL.loc[SLIM_EVAL["precision"] != "fp16", "memory/peak_mib"].isna().all()
    assert BNB.loc[BNB["hardware"] == "T4", "accuracy/mmlu"].isna().all()
    assert "size/parameters" not in SLIM_EVAL


@pytest.mark.parametrize("name", published.STUDIES)
def test_every_printed_column_is_accounted_for_and_every_key_is_a_metric(name: str) -> None:
    told = published.columns()
    for file in published.study(name).files:
        table = published.printed(file)
        identity = {"model", "precision", "engine", "hardware", "workload", "requests"}
        assert set(table.columns) - identity == set(told.loc[told["file"] == file, "column"])
    for run in published.runs(name):
        assert metrics.check(run.metrics)


def test_requests_follow_from_rate_and_time() -> None:
    table = published.printed("bnb_performance")
    assert np.allclose(table["requests_per_s"] * table["total_time_s"], table["requests"], rtol=3e-4)
    assert np.allclose(table["total_time_s"] / table["requests"], table["latency_mean_s"], atol=6e-5)


def test_speed_ups_come_out_as_printed() -> None:
    table = published.printed("bnb_performance")
    batch1 = table[table["workload"] == "batch1"].set_index("precision")["speedup"]
    names = published.study("bnb_llama32_1b").precisions
    rows = BNB[BNB["hardware"] == "T4"].set_index("precision")
    for precision in ("fp16", "int8", "int4"):
        assert rows.loc[names[precision], "impact/speedup"] == pytest.approx(batch1[precision], abs=1e-4)


def test_slim_eval_relative_figures_follow_from_the_printed_ones() -> None:
    int4 = SLIM_EVAL.loc["llama-3.2-3b-instruct/gptq-int4@vllm"]
    assert int4["impact/speedup"] == pytest.approx(0.215 / 0.132)
    assert int4["impact/energy_reduction_pct"] == pytest.approx(100 * (1 - 0.0107 / 0.0210))
    assert int4["impact/size_reduction_pct"] == pytest.approx(100 * (1 - 4.33 / 5.98))
    assert int4["impact/gsm8k_drop_pct"] == pytest.approx(100 * (0.601 / 0.678 - 1))
    assert np.isnan(int4.get("impact/memory_reduction_pct", np.nan))


def found(name: str) -> dict[tuple[tuple[str, ...], str], tuple[str, ...]]:
    return {(d.objectives, d.configuration.partition("@")[0]): d.by for d in published.dominated(name)}


def test_dominated_configurations_are_found() -> None:
    slim_eval = found("slim_eval")
    speed = ("accuracy/mean", "latency/amortized_b8_ms")
    # Qwen's int8 and int4 are slower and less accurate than its own fp16; Phi-3's int4 than its int8.
    for precision in ("gptq-int8", "gptq-int4"):
        assert "qwen2.5-3b-instruct/fp16@vllm" in slim_eval[speed, f"qwen2.5-3b-instruct/{precision}"]
    assert "phi-3-mini-4k-instruct/gptq-int8@vllm" in slim_eval[speed, "phi-3-mini-4k-instruct/gptq-int4"]
    # All that is printed of Gemma is beaten by Phi-3.
    everything = max(published.study("slim_eval").objectives, key=len)
    assert "phi-3-mini-4k-instruct/fp16@vllm" in slim_eval[everything, "gemma-3-4b-it/fp16"]
    assert (everything, "phi-3-mini-4k-instruct/fp16") not in slim_eval

    largest = ("accuracy/mean", "throughput/bmax_n2000_requests_per_s", "memory/bmax_n2000_mean_mib")
    bnb = found("bnb_llama32_1b")
    for precision in ("bnb-int8", "bnb-nf4"):
        assert bnb[largest, f"llama-3.2-1b/{precision}"] == ("llama-3.2-1b/fp16@transformers",)
    assert (largest, "llama-3.2-1b/bf16") not in bnb


def test_a_dominator_beats_or_equals_everywhere_and_beats_somewhere() -> None:
    signs = {True: -1, False: 1}
    for dominated in published.dominated("slim_eval"):
        keys = list(dominated.objectives)
        sign = np.array([signs[metrics.get(key).better is metrics.Better.HIGHER] for key in keys])
        own = SLIM_EVAL.loc[dominated.configuration, keys].to_numpy(float) * sign
        assert dominated.by
        for other in SLIM_EVAL.index:
            values = SLIM_EVAL.loc[other, keys].to_numpy(float) * sign
            assert (other in dominated.by) == bool((values <= own).all() and (values < own).any())
        assert dominated.configuration in dominated.sentence


def test_accuracy_of_other_hardware_is_told() -> None:
    assert {d.hardware for d in published.dominated("bnb_llama32_1b")} == {"T4", "T4, accuracy T1000"}


def test_own_runs_stand_beside_the_printed_ones() -> None:
    own = (
        published.frame("slim_eval")
        .drop(columns=[c for c in SLIM_EVAL if c.startswith("impact/")])
        .assign(hardware="1x NVIDIA H200")
    )
    own["accuracy/mmlu"] += 0.01
    own["latency/e2e_mean_ms"] = 1.0
    own["energy/net_j_per_query"] = [2.0 if p == "fp16" else 1.0 for p in own["precision"]]
    found = published.beside(own, "slim_eval")
    assert set(found["hardware"]) == {"1x NVIDIA H200"}
    assert set(found["published_hardware"]) == {"A100-80GB"}
    assert not found["key"].isin(["accuracy/mean", "impact/mean_drop_pct", "energy/net_kwh"]).any()
    mmlu = found[found["key"] == "accuracy/mmlu"]
    assert len(mmlu) == 13
    assert np.allclose(mmlu["own"] - mmlu["published"], 0.01)
    # Of the latency that both have, not of the one that only own runs have; of energy per query, not of the whole pass.
    speed = found[found["key"] == "impact/speedup"]
    assert len(speed) == 8
    assert np.allclose(speed["own"], speed["published"])
    assert set(found.loc[found["key"] == "impact/energy_reduction_pct", "own"]) == {50.0}


def test_own_runs_of_other_models_have_nothing_beside_them() -> None:
    own = published.frame("slim_eval").assign(model="mine")
    assert published.beside(own, "slim_eval").empty
    assert published.beside(own.iloc[:0], "slim_eval").empty


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(UserError, match="unknown published study 'x'; allowed: slim_eval, bnb_llama32_1b"):
        published.frame("x")


def test_kept_in_a_store_they_read_back_the_same_and_twice_changes_nothing(store: Store) -> None:
    runs = published.runs("bnb_llama32_1b")
    ids = keep(store, runs)
    before = {run.run_id: run for run in store.configurations()}
    assert keep(store, runs) == ids
    assert {run.run_id: run for run in store.configurations()} == before
    assert len(before) == len(runs)
    read = frame.load(store, run_ids=[ids[run.run_id] for run in runs])
    expected = frame.from_runs(runs)
    expected["baseline"] = expected["baseline"].map(ids)
    expected.index = read.index
    assert set(read["status"]) == {"FINISHED"}
    for column in ("configuration", "baseline", *frame.IDENTITY):
        assert read[column].fillna("").tolist() == expected[column].fillna("").tolist(), column
    values = [column for column in expected.columns if "/" in column]
    assert np.array_equal(read[values].to_numpy(float), expected[values].to_numpy(float), equal_nan=True)
    assert {run.tags[TAG.PUBLISHED] for run in before.values()} == {"bnb_llama32_1b"}


def test_what_was_cut_off_or_changed_is_completed(store: Store) -> None:
    runs = published.runs("bnb_llama32_1b")
    started = store.begin("configuration", runs[1].name, params=runs[1].params, tags={TAG.KEY: runs[1].tags[TAG.KEY]})
    ids = keep(store, runs[:2])
    assert ids[runs[1].run_id] == started
    kept = store.get(started)
    assert (kept.status, kept.metrics, kept.tags[TAG.BASELINE]) == ("FINISHED", runs[1].metrics, ids[runs[0].run_id])
    corrected = replace(runs[1], metrics={**runs[1].metrics, "accuracy/mmlu": 0.5})
    assert keep(store, [runs[0], corrected]) == ids
    assert store.get(started).metrics["accuracy/mmlu"] == 0.5
    assert store.get(started).status == "FINISHED"


def test_the_figures_are_installed_with_the_project(tmp_path: Path) -> None:
    root = Path(published.__file__).parents[2]
    code = (
        "from setuptools import setup; setup(script_args=['-q', 'egg_info', '--egg-base', sys.argv[1],"
        " 'build', '--build-base', sys.argv[1] + '/base', '--build-lib', sys.argv[1] + '/lib'])"
    )
    subprocess.run([sys.executable, "-c", f"import sys; {code}", str(tmp_path)], cwd=root, check=True, capture_output=True)
    built = {path.name for path in (tmp_path / "lib/analysis/published").iterdir()}
    assert {"slim_eval.csv", "bnb_accuracy.csv", "bnb_performance.csv", "columns.csv"} <= built
