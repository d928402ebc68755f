"""Fidelity to the baseline: KL divergence and agreement of the next-token distributions over one text.

Baseline and configuration are never loaded at once. The baseline's evaluation leaves its distributions in a file
(`slim.evaluate.reference`); a configuration's reads them and compares its own (`slim.evaluate.divergence`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slim import stats
from slim.config import EvaluateConfig
from slim.engines import Engine
from slim.errors import Reason, StageError
from slim.evaluate import divergence, reference
from slim.evaluate.divergence import Divergence
from slim.evaluate.passage import Passage
from slim.evaluate.reference import REFERENCE_FILE, Reference
from slim.records import Against, OnProgress, Progress, ignore_progress
from slim.tables import write_parquet

FIDELITY_FILE = "fidelity_tokens.parquet"

_MIB = 1 << 20
_KEPT_PARAM = "evaluate.fidelity_kept_tokens"
_COMPARED_PARAM = "evaluate.fidelity_reference"

BLOCKS = 20
BLOCK_TOKENS = 32
"""An interval needs blocks of at least so many tokens; `block_interval` has the reason."""


@dataclass(frozen=True)
class Fidelity:
    """What came of it.

    Attributes:
        metrics: by key of `slim.metrics`.
        params: how many tokens, how much was kept of each distribution, whether there was a reference.
        notes: what was left out, and why.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str | int | float | bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure(
    engine: Engine,
    tokenizer: Any,
    text: str,
    config: EvaluateConfig,
    out: Path,
    *,
    against: Against,
    on_progress: OnProgress = ignore_progress,
) -> Fidelity:
    """Keep the distributions of a baseline, or compare with those that it kept.

    Into ``out`` goes ``reference_logits.safetensors`` of a baseline, else ``fidelity_tokens.parquet``, one row a token. What
    cannot be done is a note, since the accuracies that were measured before are worth having without it.

    Args:
        engine: what gives the logits.
        tokenizer: the checkpoint's.
        text: only its first ``fidelity_tokens`` tokens are used.
        config: what to measure.
        out: existing directory.
        against: whether to keep or with what to compare.
        on_progress: told before the first and after each window.
    """
    if config.fidelity_tokens is None:
        return Fidelity()
    # Whether there was something to compare with: planning looks at it when there is something later.
    known: dict[str, str | int | float | bool] = {} if against.keep else {_COMPARED_PARAM: against.path is not None}
    try:
        if against.keep or against.path is not None:
            passage = Passage.of_text(tokenizer, text, config.fidelity_tokens, engine.info.max_model_len)
        if against.keep:
            return _keep(engine, passage, out / REFERENCE_FILE, config.fidelity_max_mib * _MIB, on_progress)
        if against.path is not None:
            with reference.opened(against.path) as baseline:
                found = _compare(engine, passage, baseline, out / FIDELITY_FILE, on_progress)
            return Fidelity(found.metrics, {**known, **found.params}, found.notes)
    except StageError as error:
        what = "no distributions kept for the KL divergence of others" if against.keep else "KL divergence left out"
        return Fidelity(params=known, notes=(f"{what}: {error.message}",))
    if against.missing:
        return Fidelity(params=known, notes=(f"KL divergence left out: {against.missing}",))
    return Fidelity()


def _keep(engine: Engine, passage: Passage, path: Path, budget_bytes: int, on_progress: OnProgress) -> Fidelity:
    """Write the baseline's file."""
    vocab_size = engine.info.vocab_size
    # As many as there are at 2 bytes a logit; how many bytes they take is known when all of them are there.
    count = max(1, reference.kept_tokens(passage.positions, vocab_size, 2, budget_bytes))
    parts = [divergence.keep(logits, count) for _, logits in _windows(engine, passage, on_progress)]
    kept = reference.fit(divergence.joined(parts), vocab_size, budget_bytes)
    reference.write(path, passage, kept, vocab_size)
    return Fidelity(params=_params(passage, kept.count, vocab_size))


def _compare(engine: Engine, passage: Passage, baseline: Reference, path: Path, on_progress: OnProgress) -> Fidelity:
    """Compare with the baseline and write the tokens' table."""
    _check_same(passage, engine.info.vocab_size, baseline)
    windows = _windows(engine, passage, on_progress)
    found = divergence.joined_divergences([divergence.compare(baseline.rows(part), logits) for part, logits in windows])
    write_parquet(path, rows(passage, found))
    metrics, notes = summarize(found)
    return Fidelity(metrics, _params(passage, baseline.kept_tokens, baseline.vocab_size), notes)


def _windows(engine: Engine, passage: Passage, on_progress: OnProgress) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Which positions each window has, and the engine's rows for them; a window counts as done when the next is asked for."""
    on_progress(Progress("fidelity", 0, passage.positions, "tokens"))
    for sequence, part in passage.windows():
        logits = engine.logits(sequence)
        wanted = (len(sequence) - 1, engine.info.vocab_size)
        if logits.shape != wanted:
            raise StageError(Reason.EVALUATION, f"the engine gave logits of shape {logits.shape}, not {wanted}")
        yield part, logits[len(passage.prefix) :]
        on_progress(Progress("fidelity", part.stop, passage.positions, "tokens"))


def _check_same(passage: Passage, vocab_size: int, baseline: Reference) -> None:
    """Make sure that both distributions are over the same things.

    Raises:
        StageError: they are not.
    """
    theirs = baseline.passage
    if vocab_size != baseline.vocab_size:
        problem = f"a vocabulary of {baseline.vocab_size} tokens, this model one of {vocab_size}"
    elif (passage.tokens, passage.prefix) != (theirs.tokens, theirs.prefix):
        problem = "other tokens for the same text, so another tokenizer"
    elif passage.window != theirs.window:
        problem = f"windows of {theirs.window} tokens, here they have {passage.window}"
    else:
        return
    raise StageError(Reason.EVALUATION, f"the baseline has {problem}")


def summarize(found: Divergence) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the metrics of the tokens' comparison, and what had to be left out."""
    metrics = {"fidelity/top1_agreement": float(found.agree.mean())}
    notes = []
    _add_interval(metrics, "fidelity/top1_agreement", found.agree.astype(np.float64), highest=1.0)
    infinite = int(np.isinf(found.kl_nats).sum())
    if infinite:
        notes.append(
            f"KL divergence left out: infinite, since {infinite} of {len(found.kl_nats)} distributions rule out a token that the "
            "baseline's do not"
        )
    else:
        summary = stats.summarize(found.kl_nats.tolist())
        metrics["fidelity/kl_divergence_nats"] = summary.mean
        metrics["fidelity/kl_divergence_p99_nats"] = summary.p99
        _add_interval(metrics, "fidelity/kl_divergence_nats", found.kl_nats)
        if found.kl_upper_nats is not None and np.isfinite(found.kl_upper_nats).all():
            metrics["fidelity/kl_divergence_upper_bound_nats"] = float(found.kl_upper_nats.mean())
        elif found.kl_upper_nats is not None:
            notes.append("upper bound of the KL divergence left out: infinite, since tokens are ruled out")
    return metrics, tuple(notes)


def block_interval(values: NDArray[np.float64]) -> stats.Interval | None:
    """Return the 95 % interval of the mean of values along a text, by batch means; None for too short a text.

    Neighbouring tokens share their context and their subject, so what is measured at them is correlated.
    """
    return stats.block_interval(values, min(BLOCKS, len(values) // BLOCK_TOKENS))


def _add_interval(metrics: dict[str, float], key: str, values: NDArray[np.float64], highest: float = float("inf")) -> None:
    interval = block_interval(values)
    if interval is not None:
        # Neither quantity can be negative, nor a share be more than 1.
        metrics[f"{key}_ci_low"] = max(0.0, interval.low)
        metrics[f"{key}_ci_high"] = min(highest, interval.high)


def rows(passage: Passage, found: Divergence) -> list[Mapping[str, Any]]:
    """One row a token: its place in the text, its id, and the comparison of the distributions that predicted it."""
    columns: dict[str, list[Any]] = {
        "position": list(range(1, len(passage.tokens))),
        "token": list(passage.tokens[1:]),
        "kl_nats": found.kl_nats.tolist(),
    }
    if found.kl_upper_nats is not None:
        columns["kl_upper_nats"] = found.kl_upper_nats.tolist()
    columns |= {"baseline_top1": found.baseline_top1.tolist(), "top1": found.top1.tolist(), "agree": found.agree.tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _params(passage: Passage, kept: int, vocab_size: int) -> dict[str, str | int | float | bool]:
    return {
        "evaluate.fidelity_scored_tokens": passage.positions,
        _KEPT_PARAM: kept,
        "evaluate.fidelity_exact": kept == vocab_size,
    }


def has_reference(params: Mapping[str, Any]) -> bool:
    """Whether the baseline's evaluation with these params kept its distributions."""
    return _KEPT_PARAM in params


def had_reference(params: Mapping[str, Any]) -> bool:
    """Whether a configuration's evaluation with these params had its baseline's distributions, whatever came of it."""
    return str(params.get(_COMPARED_PARAM)).lower() == "true"
