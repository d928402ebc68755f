"""Raw samples of a configuration, from the files of its stages' runs: requests of its profiles, items of its evaluation.

Latencies come from ``requests.parquet`` of each repeat, accuracies from ``samples.parquet``; whatever else a profile measures is one
number a repeat, and those numbers come from the repeats' own metrics.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from slim import comparison, models
from slim.aggregate import combine_repeats
from slim.errors import ComparisonError, NotStoredError
from slim.store import Reader, StoredRun

Array: TypeAlias = npt.NDArray[np.float64]

REQUESTS_FILE = "requests.parquet"
_LATENCY = re.compile(r"latency/(?P<quantity>ttft|tpot|itl|e2e)_(?P<statistic>mean|p50|p95|p99)_ms")
_BESIDE = re.compile(r"_(?:acc|strict)$")
_ITEM_COLUMNS = ("task", "doc_id", "doc_hash", "target_hash", "head", "weight", "correct", "beside")


@dataclass(frozen=True)
class Items:
    """Items behind an accuracy, sorted by task and document.

    Attributes:
        questions: of each item: task, document, hashes of question and right answer. Two runs with the same questions can be
            compared item by item.
        correct: shape (items,): 1 for right, 0 for wrong, or a fraction; NaN where unscored.
        weight: shape (items,): share in the accuracy, 0 where unscored.
        beside: shape (items,): by the figure beside the accuracy (``_acc``, ``_strict``); None where there is none.
    """

    questions: tuple[str, ...]
    correct: Array
    weight: Array
    beside: Array | None = None

    @property
    def value(self) -> float:
        """The accuracy."""
        scored = self.weight > 0
        return float(self.weight[scored] @ self.correct[scored] / self.weight[scored].sum())


@dataclass(frozen=True)
class Requests:
    """Requests behind a latency, one array a repeat.

    Attributes:
        repeats: each of shape (requests, values a request), in ms, NaN where a request has fewer values; the gaps of a request
            are together in a row since they are not independent.
        statistic: ``mean``, ``p50``, ``p95`` or ``p99`` over all values of a repeat; the metric is its mean over repeats.
    """

    repeats: tuple[Array, ...]
    statistic: str

    @property
    def value(self) -> float:
        """The latency in ms."""
        return float(np.mean([statistic_of(values.reshape(1, -1), self.statistic)[0] for values in self.repeats]))


@dataclass(frozen=True)
class Samples:
    """What a configuration's stages wrote.

    Attributes:
        run_id: of the configuration.
        latency: a repeat each: values in ms by ``ttft``, ``tpot``, ``itl`` and ``e2e``, as in `Requests`.
        items: by the ``<task>`` of ``accuracy/<task>``.
        repeated: metrics of each repeat: of each profile run or, where configurations that were merged are the repeats, of each of these
            the mean over its profile runs.
        missing: why there is nothing from ``requests`` or from ``items``.
    """

    run_id: str
    latency: tuple[Mapping[str, Array], ...] = ()
    items: Mapping[str, Items] = field(default_factory=dict)
    repeated: tuple[Mapping[str, float], ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str) -> Requests | tuple[Items, ...] | None:
        """Return the samples behind a metric; None where there are none, and `why_not` says why.

        An accuracy has one set of items, ``accuracy/mean`` one a task.
        """
        found = _LATENCY.fullmatch(key)
        if found is not None and self.latency and all(found["quantity"] in repeat for repeat in self.latency):
            return Requests(tuple(repeat[found["quantity"]] for repeat in self.latency), found["statistic"])
        if key == "accuracy/mean":
            return tuple(self.items.values()) or None
        if not key.startswith("accuracy/"):
            return None
        head = key.removeprefix("accuracy/")
        if head in self.items:
            return (self.items[head],)
        main = self.items.get(_BESIDE.sub("", head))
        if main is None or main.beside is None:
            return None
        weight = np.where(np.isnan(main.beside), 0.0, main.weight)
        return (Items(main.questions, main.beside, weight),) if weight.any() else None

    def why_not(self, key: str) -> str | None:
        """Return why a metric has no samples; None where it has some."""
        if self.of(key) is not None:
            return None
        if _LATENCY.fullmatch(key):
            return self.missing.get("requests", "its requests lack that latency")
        if key.startswith("accuracy/"):
            return self.missing.get("items", "no items enter this accuracy by themselves")
        return "one number a repeat" if any(key in metrics for metrics in self.repeated) else "no raw samples are kept of it"

    def repeats(self, key: str) -> Array:
        """Return a metric's value in each profile run that has it; shape (repeats,)."""
        return np.array([metrics[key] for metrics in self.repeated if key in metrics])

    @cached_property
    def arrays(self) -> Mapping[str, tuple[Array, ...]]:
        """All raw samples by metric key: of the latencies' means an array a repeat, of the accuracies one of the scored items."""
        quantities = dict.fromkeys(quantity for repeat in self.latency for quantity in repeat)
        found = {
            f"latency/{q}_mean_ms": tuple(repeat[q][~np.isnan(repeat[q])] for repeat in self.latency if q in repeat)
            for q in quantities
        }
        return found | {f"accuracy/{head}": (items.correct[items.weight > 0],) for head, items in self.items.items()}


def read(store: Reader, configuration: StoredRun, behind: Sequence[StoredRun] = ()) -> Samples:
    """Read the raw samples of a configuration.

    Args:
        store: holds its run and those of its stages.
        configuration: its run; of a merged one the run with all stage runs (`analysis.merging.Merged`).
        behind: the runs that were merged; empty is this one alone.

    Raises:
        StoreError: the store is away; a run or file that is gone is said in `Samples.missing` instead.
    """
    missing: dict[str, str] = {}
    profiles = configuration.stage_runs.get("profile", ())
    latency: tuple[Mapping[str, Array], ...] = ()
    repeated: tuple[Mapping[str, float], ...] = ()
    try:
        runs = [store.get(run_id) for run_id in profiles]
        repeated = _repeated(runs, behind)
        latency = tuple(_requests(store, run) for run in runs)
    except NotStoredError as error:
        missing["requests"] = f"its requests are gone: {error}"
    if not profiles:
        missing["requests"] = "it was not profiled"
    items: dict[str, Items] = {}
    try:
        items = _items(comparison.samples(store, configuration, _ITEM_COLUMNS))
    except ComparisonError as error:
        missing["items"] = str(error)
    return Samples(configuration.run_id, latency, items, repeated, missing)


def _repeated(profiles: Sequence[StoredRun], behind: Sequence[StoredRun]) -> tuple[Mapping[str, float], ...]:
    """The metrics of each repeat."""
    own = [set(run.stage_runs.get("profile", ())) for run in behind]
    groups = [found for ids in own if (found := [run.metrics for run in profiles if run.run_id in ids])]
    if len(groups) < 2:
        return tuple(run.metrics for run in profiles)
    return tuple(combine_repeats(group)[0] for group in groups)


def statistic_of(values: Array, statistic: str) -> Array:
    """Return the mean or percentile of each row, NaN left out; percentiles interpolate as `slim.stats.summarize` does."""
    whole = not np.isnan(values).any()
    if statistic == "mean":
        return np.asarray(values.mean(axis=1) if whole else np.nanmean(values, axis=1))
    percentile = float(statistic.removeprefix("p"))
    return np.asarray(np.percentile(values, percentile, axis=1) if whole else np.nanpercentile(values, percentile, axis=1))


def _requests(store: Reader, run: StoredRun) -> dict[str, Array]:
    """The latencies of a profile run's requests in ms, by quantity; a quantity that no request has is absent."""
    import pyarrow as pa

    path = store.artifact(run, REQUESTS_FILE, models.home() / "artifacts")
    try:
        table = pd.read_parquet(path, columns=["ttft_s", "e2e_s", "token_times_s"])
    except (OSError, pa.ArrowException) as error:
        raise NotStoredError(
            f"{REQUESTS_FILE} of run {run.run_id} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error
    ttft, e2e = (table[name].to_numpy(dtype=np.float64) for name in ("ttft_s", "e2e_s"))
    gaps = [np.diff(np.asarray(times, dtype=np.float64)) for times in table["token_times_s"]]
    itl = np.full((len(gaps), max(map(len, gaps), default=0)), np.nan)
    for row, own in zip(itl, gaps, strict=True):
        row[: len(own)] = own
    steps = np.array([len(own) for own in gaps], dtype=np.float64)
    tpot = np.divide(e2e - ttft, steps, out=np.full(len(steps), np.nan), where=steps > 0)
    found = {"ttft": ttft[:, None], "tpot": tpot[:, None], "itl": itl, "e2e": e2e[:, None]}
    return {name: 1e3 * values for name, values in found.items() if not np.isnan(values).all()}


def _items(table: pd.DataFrame) -> dict[str, Items]:
    """Items by head; a figure that is no mean over its items, such as F1, is absent."""
    table = table[table["head"].notna()].sort_values(["task", "doc_id"], kind="stable")
    found: dict[str, Items] = {}
    for head, own in table.groupby("head", sort=False):
        weight, correct, beside = (own[name].to_numpy(dtype=np.float64) for name in ("weight", "correct", "beside"))
        if np.isnan(weight).all():
            continue
        questions = tuple(
            f"{task}/{doc}/{asked}/{right}"
            for task, doc, asked, right in zip(own["task"], own["doc_id"], own["doc_hash"], own["target_hash"], strict=True)
        )
        scored = ~np.isnan(weight) & ~np.isnan(correct)
        found[str(head)] = Items(questions, correct, np.where(scored, weight, 0.0), None if np.isnan(beside).all() else beside)
    return found
