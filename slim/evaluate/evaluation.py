"""Evaluation of one engine: tasks through lm-evaluation-harness, then perplexity of a text."""

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim import metrics as catalogue
from slim import text
from slim.config import EvaluateConfig
from slim.engines import Engine
from slim.errors import Reason, SlimError, StageError
from slim.evaluate.tasks import check_tasks
from slim.records import Dataset, OnProgress, Progress, ignore_progress
from slim.tables import write_parquet

if TYPE_CHECKING:
    from slim.evaluate.harness import EngineLM
    from slim.evaluate.loading import LoadedTask

SAMPLES_FILE = "samples.parquet"
TOKENS_FILE = "perplexity_tokens.parquet"
RESULTS_FILE = "harness.json"
UNSCORED_TAG = "slim.unscored"
NOTES_TAG = "slim.evaluate_notes"

# Only for the few figures that have no closed form, such as F1.
_BOOTSTRAP_ITERATIONS = 200
_NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by key of `slim.metrics`; only what is known.
        params: counts and settings that the tasks determine.
        datasets: what was read.
        tags: items that could not be scored, and what was done otherwise than a task asks.
    """

    metrics: dict[str, float]
    params: dict[str, str | int | float | bool]
    datasets: tuple[Dataset, ...]
    tags: dict[str, str]


def evaluate(
    engine: Engine,
    tokenizer_dir: Path,
    config: EvaluateConfig,
    out: Path,
    *,
    seed: int,
    trust_remote_code: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Run the tasks and the perplexity on an open engine.

    Into ``out`` go ``samples.parquet`` (one row an item, see `slim.evaluate.samples`), ``harness.json`` (the harness's
    figures, each task of a group included) and ``perplexity_tokens.parquet`` (one row a token).

    Args:
        engine: stays open.
        tokenizer_dir: directory with the checkpoint's tokenizer.
        config: what to measure.
        out: existing directory.
        seed: of the choice of few-shot examples.
        trust_remote_code: run tokenizer code that comes with the model.
        on_progress: told what is running, in requests.

    Raises:
        ConfigError: an unknown task or an impossible setting.
        StageError: the harness is not installed, data cannot be had, a task fails, or the engine does.
    """
    check_tasks(config)
    on_progress(Progress("load tasks", 0, None))
    with _one_process():
        try:
            from slim.evaluate.harness import EngineLM, open_tokenizer
            from slim.evaluate.loading import load_tasks
            from slim.evaluate.perplexity import score_text
        except ImportError as error:
            raise StageError(Reason.MISSING_PACKAGE, f"lm-eval cannot be imported: {error}") from error

        tokenizer = open_tokenizer(tokenizer_dir, trust_remote_code)
        if config.apply_chat_template and not getattr(tokenizer, "chat_template", None):
            raise StageError(Reason.EVALUATION, "apply_chat_template: the model's tokenizer has no chat template")
        _seed_everything(seed)
        data_dir = Path(config.data_dir) if config.data_dir is not None else None
        tasks = load_tasks(config.tasks, limit=config.limit, data_dir=data_dir, seed=seed, on_progress=on_progress)
        lm = EngineLM(engine, tokenizer, batch_size=config.batch_size, max_gen_tokens=config.max_gen_tokens)
        lm.on_progress = on_progress
        report = _Report(tokenizer)
        for task in tasks:
            lm.step = task.entry.name
            report.add(task, _run(task, lm, config), lm)
        report.finish(lm, out)
        if config.perplexity_text is not None:
            passage = text.load(config.perplexity_text)
            scores = score_text(
                engine, tokenizer, passage, config.perplexity_tokens, batch_size=config.batch_size, on_progress=on_progress
            )
            write_parquet(out / TOKENS_FILE, list(scores.rows()))
            report.add_text(config.perplexity_text, passage, scores)
    return report.evaluation()


def _run(task: "LoadedTask", lm: "EngineLM", config: EvaluateConfig) -> dict[str, Any]:
    """The harness's results of one entry; items that could not be scored are left out of its figures."""
    import lm_eval

    from slim.evaluate.samples import without_gold

    try:
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
            for doc_id, problem in without_gold(leaf, results["samples"][name]).items():
                lm.unscored.setdefault((name, doc_id), problem)
        if any(name in task.leaves for name, _ in lm.unscored):
            results = {**_rescored(task, results, lm), "samples": results["samples"]}
    except SlimError:
        raise
    except Exception as error:  # a task is code of others, which may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise StageError(Reason.EVALUATION, f"task {task.entry.name!r}: {type(error).__name__}: {lines[0][:300]}") from error
    return results


def _rescored(task: "LoadedTask", results: Mapping[str, Any], lm: "EngineLM") -> dict[str, Any]:
    """The harness's figures over the items that could be scored."""
    from lm_eval.evaluator_utils import _process_results

    kept: dict[str, Any] = {}
    for name, leaf in task.leaves.items():
        samples = [s for s in results["samples"][name] if (name, s["doc_id"]) not in lm.unscored]
        if not samples:
            problem = next(problem for (owner, _), problem in lm.unscored.items() if owner == name)
            raise StageError(Reason.EVALUATION, f"no item of task {name!r} can be scored: {problem}")
        raw: dict[tuple[str, str], list[Any]] = {}
        for sample in samples:
            for metric in sample["metrics"]:
                raw.setdefault((metric, sample["filter"]), []).append(sample[metric])
        kept[name] = {"task": leaf, "raw_metrics": raw, "logged_samples": []}
    figures: dict[str, Any] = _process_results(kept, dict(task.groups), _BOOTSTRAP_ITERATIONS)._to_eval_results()
    return figures


class _Report:
    """Gathers what is reported while the tasks run."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.metrics: dict[str, float] = {}
        self.params: dict[str, str | int | float | bool] = {}
        self.datasets: list[Dataset] = []
        self.tags: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []
        self.heads: list[list[float] | None] = []
        self.harness: dict[str, Any] = {}
        self.notes: dict[str, None] = {}

    def add(self, task: "LoadedTask", results: Mapping[str, Any], lm: "EngineLM") -> None:
        """Take in the results of one entry."""
        from slim.evaluate import samples, scores

        name = task.entry.name
        metrics, head = scores.metrics_of(task, results)
        self.metrics |= metrics
        self.heads.append(head)
        if head is None:
            self.notes[f"{name} has a figure that is no fraction, so there is no mean"] = None
        hashes = []
        for leaf_name, leaf in task.leaves.items():
            choice = scores.primary(results["results"][leaf_name], results["higher_is_better"].get(leaf_name, {}))
            unscored = {doc_id: problem for (owner, doc_id), problem in lm.unscored.items() if owner == leaf_name}
            rows = list(samples.rows(leaf, results["samples"][leaf_name], choice, unscored))
            hashes += [row["doc_hash"] for row in rows]
            self.rows += rows
        shots = {leaf.get_config("num_fewshot") for leaf in task.leaves.values()}
        self.params[f"evaluate.items.{name}"] = len(hashes)
        self.params[f"evaluate.num_fewshot.{name}"] = "/".join(map(str, sorted(shots)))
        sources = ", ".join(sorted(set(task.sources.values()) - {""})) or "harness"
        self.datasets.append(Dataset(name, sources, _digest(hashes), len(hashes), "evaluation"))
        self.harness[name] = {key: results[key] for key in ("results", "versions", "n-shot", "n-samples", "group_subtasks")}

    def add_text(self, name: str, passage: str, scores: Any) -> None:
        """Take in the scores of the text."""
        perplexity = scores.perplexity
        if perplexity is not None:
            self.metrics["fidelity/perplexity"] = perplexity
        else:
            self.notes["perplexity left out: a token had no finite log-probability"] = None
        self.params["evaluate.perplexity_scored_tokens"] = len(scores.logprobs)
        self.params["evaluate.perplexity_window_tokens"] = scores.window
        self.params["evaluate.perplexity_bos"] = scores.has_bos
        source = f"builtin:{name}" if name == text.BUILTIN else name
        self.datasets.append(Dataset(name, source, text.digest(passage), len(scores.tokens), "evaluation"))

    def finish(self, lm: "EngineLM", out: Path) -> None:
        """Write what the tasks left and note what went otherwise than asked."""
        from slim.evaluate import scores

        mean = scores.mean(self.heads)
        if mean is not None:
            self.metrics["accuracy/mean"] = mean
        write_parquet(out / SAMPLES_FILE, self.rows)
        harness = json.dumps(self.harness, indent=1, default=str, sort_keys=True)
        (out / RESULTS_FILE).write_text(harness + "\n", encoding="utf-8")
        self.params["evaluate.unscored_items"] = len(lm.unscored)
        self.params["evaluate.truncated_items"] = len(lm.truncated)
        self.notes |= lm.notes
        if lm.unscored:
            named = [f"{task}[{doc_id}]: {problem}" for (task, doc_id), problem in lm.unscored.items()]
            more = f" (and {len(named) - _NAMED_AT_MOST} more)" if len(named) > _NAMED_AT_MOST else ""
            self.tags[UNSCORED_TAG] = "; ".join(named[:_NAMED_AT_MOST]) + more

    def evaluation(self) -> Evaluation:
        """The finished record."""
        if self.notes:
            self.tags[NOTES_TAG] = "; ".join(self.notes)
        return Evaluation(catalogue.check(self.metrics), self.params, tuple(self.datasets), self.tags)


def _digest(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _seed_everything(seed: int) -> None:
    """As ``lm_eval.simple_evaluate``: some tasks shuffle with the global generators while they load."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)


@contextmanager
def _one_process() -> Iterator[None]:
    """Keep the harness's bootstrap from forking this process, which holds an engine."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
