"""The analysis on real measurements, in two repeats: 13 configurations on NVIDIA H200s, three on an H100."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from analysis import study
from analysis.filters import Filters
from slim.errors import UserError
from slim.profile.summary import stalled
from slim.provenance import ROOT
from slim.store import Store
from tests import measured

H100 = ROOT / "tests" / "data" / "h100"
H200 = ROOT / "tests" / "data" / "h200"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    directory = tmp_path_factory.mktemp("h200")
    uri = f"sqlite:///{directory}/mlflow.db"
    measured.restored(H200, uri, directory / "artifacts")
    found = Store.open(uri, "slim", create=False)
    assert found is not None
    return found


def by_name(data: Path, kind: str) -> dict[str, list[dict[str, float]]]:
    """Metrics of the runs of a kind, by configuration without the prefix that all have, in the order of their repeats."""
    found: dict[str, list[dict[str, float]]] = {}
    for row in measured.rows(data):
        if row["tags"]["slim.kind"] == kind:
            metrics = {"throughput/sustained_output_tokens_per_s": sustained(row["metrics"]), **row["metrics"]}
            found.setdefault(row["tags"]["slim.config"].removeprefix("synthetic-"), []).append(metrics)
    return found


def sustained(metrics: dict[str, float]) -> float:
    """Output tokens a second in the energy pass, for configurations whose profiles were made before it was a metric."""
    if "energy/gross_j_per_query" not in metrics:
        return float("nan")
    queries_per_s = metrics["energy/mean_power_w"] / metrics["energy/gross_j_per_query"]
    return queries_per_s * metrics["energy/net_j_per_query"] / metrics["energy/net_j_per_output_token"]


@pytest.mark.parametrize("data", [H100, H200], ids=lambda data: data.name)
def test_the_page_says_what_was_measured(data: Path) -> None:
    """Each row of its tables is made again from the runs."""
    lines = (ROOT / "docs" / f"results-{data.name}.md").read_text().splitlines()
    profiles, configurations = by_name(data, "profile"), by_name(data, "configuration")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    headers = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| configuration")]
    seen = set()
    for row in rows:
        header = next(h for h in headers if len(h) == len(row))
        name = next(n for n in profiles if n.startswith(f"{row[0]}@"))
        seen.add(name)
        for title, cell in list(zip(header, row, strict=True))[1:]:
            key, places = COLUMNS[title]
            if "[" in cell:
                (all_repeats,) = configurations[name]
                expected = f"{all_repeats[key]:,.{places}f} [{all_repeats[key + '_ci_low']:,.{places}f}, {all_repeats[key + '_ci_high']:,.{places}f}]"
            else:
                each = [f"{repeat[key]:,.{places}f}" for repeat in profiles[name]]
                expected = " / ".join(each if "/" in cell else dict.fromkeys(each))
            assert cell == expected, (name, title)
    assert seen == profiles.keys()


COLUMNS = {
    "TTFT ms": ("latency/ttft_mean_ms", 1),
    "TPOT ms": ("latency/tpot_mean_ms", 3),
    "median TPOT ms": ("latency/tpot_p50_ms", 3),
    "best tok/s": ("throughput/output_tokens_per_s", 0),
    "batch of 8, ms": ("latency/amortized_b8_ms", 1),
    "weights MiB": ("memory/weights_mib", 0),
    "required MiB": ("memory/required_mib", 0),
    "net J/output token": ("energy/net_j_per_output_token", 4),
    "gross J/query": ("energy/gross_j_per_query", 2),
    "counter ratio": ("energy/counter_ratio", 3),
    "sustained tok/s": ("throughput/sustained_output_tokens_per_s", 0),
    "MBU": ("efficiency/mbu", 2),
    "GPU busy %": ("gpu/utilization_mean_pct", 0),
    "batch of 32, requests/s": ("throughput/bmax_n32_requests_per_s", 1),
    "one by one, requests/s": ("throughput/b1_n32_requests_per_s", 2),
}
"""Metric and decimals of a column of the page."""


def answer(store: Store, flagged: bool) -> Any:
    filters = Filters(engines=("vllm",), flagged=flagged)
    return study.make(store, study.Question(draws=200), filters)


def test_flagged_measurements_are_left_out_unless_asked_for(store: Store) -> None:
    with pytest.raises(UserError, match="4 filtered, 9 invalid; flagged measurements can be taken too"):
        answer(store, flagged=False)


def test_a_study_of_them(store: Store) -> None:
    found = answer(store, flagged=True)
    assert len(found.frame) == 9
    (loads,) = [note for note in found.notes if "different concurrencies" in note]
    # Gemma's bf16 was best at 128 once and at 256 once, of which the store has the mean.
    assert "192 for synthetic-gemma-3-4b/bf16@vllm; 256 for" in loads
    assert not any("profiled once" in note for note in found.notes)
    assert found.front is not None and found.sureness is not None
    chosen = {r.request.name: r.choice.configuration for r in found.recommendations if r.choice}
    # Least memory: the smallest int4; least latency: what has the lowest of them all.
    assert chosen["memory-constrained"].endswith("qwen2.5-3b/gptq-int4@vllm")
    for model in ("llama-3.2-3b", "qwen2.5-3b", "gemma-3-4b"):
        mine = found.frame[found.frame["configuration"].str.contains(re.escape(model))].set_index("precision")
        assert mine.loc["gptq-int4", "memory/required_mib"] < 0.4 * mine.loc["bf16", "memory/required_mib"]
        assert mine.loc["gptq-int8", "energy/net_j_per_output_token"] < 0.8 * mine.loc["bf16", "energy/net_j_per_output_token"]


def test_what_the_page_says_of_repeats() -> None:
    """TPOT on vLLM: seven of nine configurations within 2 % between their repeats."""
    spreads = {}
    for name, repeats in by_name(H200, "profile").items():
        if name.endswith("@vllm"):
            first, second = (r["latency/tpot_mean_ms"] for r in repeats)
            spreads[name] = abs(first - second) / min(first, second)
    assert sum(spread < 0.02 for spread in spreads.values()) == 7
    assert max(spreads.values()) < 0.09


def test_what_the_h100_page_says_of_interruptions() -> None:
    """Gaps of more than twice the median: how many, and how much of the decoding time they take beyond it."""
    requests = pd.read_parquet(H100 / "requests.parquet")
    shares, gaps_each = [], []
    for row in measured.rows(H100):
        if row["tags"]["slim.kind"] == "profile":
            mine = requests[requests["run_id"] == row["run_id"]]
            gaps = np.concatenate([np.diff(np.asarray(t)) for t in mine["token_us"]]) / 1e3
            slow = gaps[gaps > 2 * np.median(gaps)]
            shares.append(round(100 * stalled(gaps.tolist()), 1))
            gaps_each.append(len(gaps) / len(slow))
            assert slow.max() < 26.2
    assert sorted(shares)[:5] == [2.7, 2.8, 2.8, 2.9, 3.1] and max(shares) == 4.5
    assert 85 < float(np.median(gaps_each)) < 95


def test_stores_are_exported_side_by_side(tmp_path: Path) -> None:
    """What was restored and exported again has the same runs, and a second store's runs come beside them, each once."""
    uris = {data: f"sqlite:///{tmp_path}/{data.name}.db" for data in (H200, H100)}
    for data, uri in uris.items():
        measured.restored(data, uri, tmp_path / data.name)
    # The younger first, and one of them twice.
    for data in (H100, H200, H100):
        measured.export(uris[data], tmp_path / "both")
    found = measured.rows(tmp_path / "both")
    before = sorted((row for data in uris for row in measured.rows(data)), key=lambda row: row["start_ms"])
    assert [(row["name"], row["metrics"], row["params"]) for row in found] == [
        (row["name"], row["metrics"], row["params"]) for row in before
    ]
    assert len({row["run_id"] for row in found}) == len(found)
    requests = pd.read_parquet(tmp_path / "both" / "requests.parquet")
    assert set(requests["run_id"]) <= {row["run_id"] for row in found}
    assert len(requests) == sum(len(pd.read_parquet(data / "requests.parquet")) for data in uris)


def test_a_study_says_what_was_measured_once_only(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    measured.restored(H100, uri, tmp_path / "artifacts")
    client = MlflowClient(uri)
    for name, once in (("bf16", "1 of 3 configurations were"), ("gptq", "Each configuration was")):
        for run in client.search_runs(["1"], f"tags.slim.kind = 'configuration' AND params.precision LIKE '{name}%'"):
            stages = json.loads(run.data.tags["slim.stage_runs"])
            client.set_tag(run.info.run_id, "slim.stage_runs", json.dumps({**stages, "profile": stages["profile"][:1]}))
        store = Store.open(uri, "slim", create=False)
        assert store is not None
        (note,) = [note for note in answer(store, flagged=True).notes if "profiled once" in note]
        assert note.startswith(once)
