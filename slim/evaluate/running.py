"""The parts of an evaluation: an entry of the sweep file through the harness, and the text.

Imports the harness at its top, so import it only where something is evaluated.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval
import pyarrow as pa
from lm_eval.evaluator_utils import _process_results

from slim import text
from slim.config import EvaluateConfig
from slim.engines import Engine
from slim.errors import Reason, SlimError, StageError
from slim.evaluate import samples, scores
from slim.evaluate.harness import EngineLM
from slim.evaluate.loading import LoadedTask, compares_choices
from slim.evaluate.parts import SAMPLES_FILE, TOKENS_FILE, Part
from slim.evaluate.passage import Passage
from slim.evaluate.perplexity import score_text
from slim.evaluate.primary import Choice, primary
from slim.evaluate.samples import Row
from slim.evaluate.scores import Head
from slim.evaluate.templates import compiled_once
from slim.records import Dataset, OnProgress

# Only for the few standard errors that have no closed form, such as F1's. The harness draws 100,000 times, which takes minutes for
# a thousand items; the error of a standard error from B resamples is about 1 / sqrt(2 B) of it.
_BOOTSTRAP_ITERATIONS = 1000

_TOKENS = pa.schema([("position", pa.int64()), ("token", pa.int64()), ("logprob", pa.float64())])


def run_task(task: LoadedTask, lm: EngineLM, config: EvaluateConfig) -> Part:
    """Put the questions of an entry to the model and score the answers as the harness does.

    Args:
        task: the entry.
        lm: fresh, since it gathers what went otherwise than asked.
        config: how questions are put.

    Raises:
        StageError: the task's own code fails, nothing of it can be scored, or the engine fails.
    """
    task.restore_randomness()
    lm.likelihoods_only = task.likelihoods_only
    try:
        with compiled_once():
            results: dict[str, Any] = lm_eval.evaluate(
                lm,
                task.task_dict,
                limit=task.limit,
                bootstrap_iters=_BOOTSTRAP_ITERATIONS,
                log_samples=True,
                system_instruction=config.system_prompt,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.apply_chat_template,
            )
        for name, leaf in task.leaves.items():
            if not compares_choices(leaf):
                continue
            for doc_id, problem in samples.without_gold(leaf, results["samples"][name]).items():
                lm.unscored.setdefault((name, doc_id), problem)
        if lm.unscored:
            results = {**_rescored(task, results, lm), "samples": results["samples"]}
        return _part(task, results, lm)
    except SlimError:
        raise
    except Exception as error:  # a task is code of others, which may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise StageError(Reason.EVALUATION, f"task {task.entry.name!r}: {type(error).__name__}: {lines[0][:300]}") from error


def run_text(engine: Engine, tokenizer: Any, config: EvaluateConfig, on_progress: OnProgress) -> Part:
    """Score the text that perplexity is measured on.

    A text that this model cannot be measured on is a note, since the tasks were measured before.

    Raises:
        StageError: the engine fails.
    """
    assert config.perplexity_text is not None
    name, whole = config.perplexity_text, text.load(config.perplexity_text)
    try:
        passage = Passage.of_text(tokenizer, whole, config.perplexity_tokens, engine.info.max_model_len)
    except StageError as error:
        return Part(TOKENS_FILE, _TOKENS.empty_table(), notes=(f"perplexity left out: {error.message}",))
    found = score_text(engine, passage, batch_size=config.batch_size, on_progress=on_progress)
    perplexity = found.perplexity
    source = f"builtin:{name}" if name == text.BUILTIN else name
    return Part(
        TOKENS_FILE,
        pa.Table.from_pylist(list(found.rows()), schema=_TOKENS),
        metrics={} if perplexity is None else {"fidelity/perplexity": perplexity},
        params={
            "evaluate.perplexity_scored_tokens": len(found.logprobs),
            "evaluate.perplexity_window_tokens": found.window,
            "evaluate.perplexity_bos": found.has_bos,
        },
        datasets=(Dataset(name, source, text.digest(whole), len(found.tokens), "evaluation"),),
        notes=() if perplexity is not None else ("perplexity left out: a token had no finite log-probability",),
    )


def _rescored(task: LoadedTask, results: Mapping[str, Any], lm: EngineLM) -> dict[str, Any]:
    """The harness's figures over the items that could be scored; a task of a group that has none of them is left out."""
    kept: dict[str, Any] = {}
    for name, leaf in task.leaves.items():
        raw: dict[tuple[str, str], list[Any]] = {}
        for sample in results["samples"][name]:
            if (name, sample["doc_id"]) not in lm.unscored:
                for metric in sample["metrics"]:
                    raw.setdefault((metric, sample["filter"]), []).append(sample[metric])
        if raw:
            kept[name] = {"task": leaf, "raw_metrics": raw, "logged_samples": []}
        else:
            lm.notes[f"{name} is left out: none of its items could be scored"] = None
    if not kept:
        problem = next(iter(lm.unscored.values()))
        raise StageError(Reason.EVALUATION, f"no item of task {task.entry.name!r} can be scored: {problem}")
    figures: dict[str, Any] = _process_results(kept, dict(task.groups), _BOOTSTRAP_ITERATIONS)._to_eval_results()
    return figures


def _part(task: LoadedTask, results: Mapping[str, Any], lm: EngineLM) -> Part:
    """What the results say, item by item and as a whole."""
    name = task.entry.name
    metrics, figures, missing = scores.metrics_of(task, results)
    heads: dict[str, Head] = {}
    for head in scores.heads(task, results):
        for leaf in head.leaves:
            heads.setdefault(leaf, head)
    rows = {leaf: _rows(task.leaves[leaf], heads.get(leaf), results, lm) for leaf in task.leaves}
    for head in dict.fromkeys(heads.values()):
        samples.weigh(head, [row for leaf in head.leaves if heads[leaf] is head for row in rows[leaf]])
    every = [row for leaf in task.leaves for row in rows[leaf]]
    digest = hashlib.sha256("".join(row["doc_hash"] for row in every).encode()).hexdigest()[:16]
    sources = ", ".join(sorted(set(task.sources.values()) - {""})) or "harness"
    return Part(
        SAMPLES_FILE,
        samples.table(every),
        metrics=metrics,
        figures=None if figures is None else tuple(figures),
        params=_params(task, every),
        datasets=(Dataset(name, sources, digest, len(every), "evaluation"),),
        notes=(*lm.notes, *missing),
        unscored=tuple((leaf, doc_id, problem) for (leaf, doc_id), problem in lm.unscored.items()),
        harness={name: {key: results[key] for key in ("results", "versions", "n-shot", "n-samples", "group_subtasks")}},
    )


def _rows(leaf: Any, head: Head | None, results: Mapping[str, Any], lm: EngineLM) -> list[Row]:
    """Rows of one task, its items judged by the figure that they enter."""
    name = leaf.task_name
    return list(
        samples.rows(
            leaf,
            results["samples"][name],
            _choice(name, head, results),
            {doc_id: problem for (owner, doc_id), problem in lm.unscored.items() if owner == name},
            {doc_id for owner, doc_id in lm.truncated if owner == name},
            greedy=name not in lm.likelihoods_only,
        )
    )


def _choice(leaf: str, head: Head | None, results: Mapping[str, Any]) -> Choice | None:
    """The figure that a task's items are judged by: the one that its group aggregates, else its own."""
    own = results["results"].get(leaf, {})
    if head is not None and head.choice is not None and f"{head.choice.metric},{head.choice.filter}" in own:
        return head.choice
    return primary(own, results["higher_is_better"].get(leaf, {}), [leaf])


def _params(task: LoadedTask, rows: Sequence[Row]) -> dict[str, str | int | float | bool]:
    """Counts of the entry; what went wrong only where something did."""
    name = task.entry.name
    shots = {leaf.get_config("num_fewshot") for leaf in task.leaves.values()}
    unusual = {
        "unscored": sum(row["unscored"] is not None for row in rows),
        "truncated": sum(row["truncated"] for row in rows),
        "unextracted": samples.without_answer(rows),
    }
    return {
        f"evaluate.items.{name}": len(rows),
        f"evaluate.num_fewshot.{name}": "/".join(map(str, sorted(shots))),
        **{f"evaluate.{what}_items.{name}": count for what, count in unusual.items() if count},
    }
