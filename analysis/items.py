"""The items whose answer turned between a baseline and a configuration: what quantization broke, one row each."""

import numpy as np
import pandas as pd

from slim.comparison import BASELINE, COLUMNS, CONFIGURATION, pair, samples
from slim.errors import UserError
from slim.store import TAG, Reader, StoredRun

_ANSWERS = ("target", "choice", "logprobs", "extracted", "text")


def lost_items(store: Reader, run_id: str, task: str | None = None) -> pd.DataFrame:
    """Return the items that the baseline had right and a configuration has wrong, the surest of the baseline's first.

    Margins are in nats: the log-likelihood of the right choice less that of the best other one, so above zero where a model
    prefers the right choice and below where it prefers another. They are of whole choices, also where the answer that counts is
    chosen by the likelihood per character. An answer that was generated has no margin and comes after those that have one.

    Args:
        store: holds the runs.
        run_id: of a configuration run that was compared with a baseline.
        task: only this task's items, or those of this figure (``mmlu``); None is all.

    Returns:
        ``task``, ``head`` (the figure that the item enters), ``doc_id``, ``target`` (the right choice's index, or the right
        text); then, once with the suffix ``_baseline`` and once with ``_configuration``: ``choice`` (its index),
        ``margin_nats``, ``extracted`` (the answer taken from a generated text) and ``text``. What an item does not have is
        missing.

    Raises:
        UserError: not such a run, no such task, or the two did not answer the same questions.
        StoreError: a run cannot be read.
    """
    pairs = _pairs(store, run_id, task)
    return _answers(pairs[(pairs["correct" + BASELINE] == 1) & (pairs["correct" + CONFIGURATION] == 0)], right=BASELINE)


def gained_items(store: Reader, run_id: str, task: str | None = None) -> pd.DataFrame:
    """Return the items that the baseline had wrong and a configuration has right; otherwise as `lost_items`."""
    pairs = _pairs(store, run_id, task)
    return _answers(pairs[(pairs["correct" + BASELINE] == 0) & (pairs["correct" + CONFIGURATION] == 1)], right=CONFIGURATION)


def _pairs(store: Reader, run_id: str, task: str | None) -> pd.DataFrame:
    run = store.get(run_id)
    baseline = store.get(_baseline_of(run))
    columns = (*COLUMNS, *_ANSWERS)
    pairs = pair(samples(store, baseline, columns), samples(store, run, columns))
    pairs = pairs[pairs["head"].notna()]
    if task is None:
        return pairs
    chosen = pairs[(pairs["task"] == task) | (pairs["head"] == task)]
    if chosen.empty:
        known = dict.fromkeys([*pairs["head"], *pairs["task"]])
        raise UserError(f"run {run_id} answered no task {task!r}; allowed: {', '.join(known)}")
    return chosen


def _baseline_of(run: StoredRun) -> str:
    if run.kind != "configuration":
        raise UserError(f"run {run.run_id} is of kind {run.kind!r}; give a configuration's run")
    if TAG.BASELINE not in run.tags:
        raise UserError(f"run {run.run_id} ({run.name}) has no baseline: it is one, or no sweep held both")
    return run.tags[TAG.BASELINE]


def _answers(items: pd.DataFrame, right: str) -> pd.DataFrame:
    """The columns to show, the surest of the baseline's answers first.

    Args:
        items: that turned.
        right: suffix of the run that had them right: its choice is the right one.
    """
    shown = items[["task", "head", "doc_id"]].assign(target=items["target" + BASELINE])
    for suffix in (BASELINE, CONFIGURATION):
        shown[f"choice{suffix}"] = items[f"choice{suffix}"].astype("Int64")
        shown[f"margin_nats{suffix}"] = [
            _margin(logprobs, choice)
            for logprobs, choice in zip(items[f"logprobs{suffix}"], items[f"choice{right}"], strict=True)
        ]
        for column in ("extracted", "text"):
            shown[column + suffix] = items[column + suffix]
    sure = shown["margin_nats" + BASELINE] * (1 if right == BASELINE else -1)
    return shown.loc[sure.sort_values(ascending=False, na_position="last", kind="stable").index].reset_index(drop=True)


def _margin(logprobs: object, right: float) -> float:
    """How far the right choice leads the best other one, in nats; NaN for a generated answer."""
    values = np.asarray(logprobs, dtype=np.float64) if logprobs is not None else np.empty(0)
    if np.isnan(right) or len(values) < 2:
        return float("nan")
    others = np.delete(values, int(right))
    return float("nan") if np.isnan(others).all() else float(values[int(right)] - np.nanmax(others))
