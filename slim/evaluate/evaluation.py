"""Evaluation of one engine: tasks through lm-evaluation-harness, then perplexity of a text, part by part."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from slim import text
from slim.config import EvaluateConfig, TaskEntry
from slim.engines import Engine
from slim.errors import Reason, StageError
from slim.evaluate import fidelity
from slim.evaluate.answers import KeepingEngine
from slim.evaluate.fidelity import Fidelity
from slim.evaluate.parts import Evaluation, Part, combine
from slim.evaluate.scores import metric_name
from slim.evaluate.tasks import check_tasks
from slim.pieces import Pieces
from slim.records import NOTHING, Against, OnProgress, Progress, ignore_progress

if TYPE_CHECKING:
    from slim.evaluate.loading import LoadedTask


@dataclass(frozen=True)
class Prepared:
    """What an evaluation needs besides the engine.

    Attributes:
        tokenizer: of the checkpoint.
        tasks: by entry; those that an earlier attempt finished are missing.
    """

    tokenizer: Any
    tasks: Mapping[str, "LoadedTask"]


def prepare(
    tokenizer_dir: Path,
    config: EvaluateConfig,
    *,
    seed: int,
    trust_remote_code: bool = False,
    pieces: Pieces | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Prepared:
    """Load the tokenizer and the tasks with their data; can be done before an engine is opened.

    Args:
        tokenizer_dir: directory with the checkpoint's tokenizer.
        config: what to measure.
        seed: of the choice of few-shot examples.
        trust_remote_code: run tokenizer code that comes with the model.
        pieces: what earlier attempts finished.
        on_progress: told what is loaded.

    Raises:
        ConfigError: an unknown task or an impossible setting.
        StageError: the harness is not installed, data cannot be had, or a task does not load.
    """
    check_tasks(config)
    on_progress(Progress("load tasks", 0, None))
    with _one_process():
        try:
            from slim.evaluate.harness import open_tokenizer
            from slim.evaluate.loading import load_tasks
        except ImportError as error:
            raise StageError(Reason.MISSING_PACKAGE, f"lm-eval cannot be imported: {error}") from error
        tokenizer = open_tokenizer(tokenizer_dir, trust_remote_code)
        if config.apply_chat_template and not getattr(tokenizer, "chat_template", None):
            raise StageError(Reason.EVALUATION, "apply_chat_template: the model's tokenizer has no chat template")
        data_dir = Path(config.data_dir) if config.data_dir is not None else None
        left = [entry for entry in config.tasks if _finished(pieces, _task_piece(config, entry)) is None]
        tasks = load_tasks(left, limit=config.limit, data_dir=data_dir, seed=seed, on_progress=on_progress)
    return Prepared(tokenizer, {task.entry.name: task for task in tasks})


def evaluate(
    engine: Engine,
    tokenizer_dir: Path,
    config: EvaluateConfig,
    out: Path,
    *,
    seed: int,
    against: Against = NOTHING,
    trust_remote_code: bool = False,
    pieces: Pieces | None = None,
    prepared: Prepared | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Run the tasks, the perplexity and the comparison with the baseline on an open engine.

    Into ``out`` go ``samples.parquet`` (one row an item, see `slim.evaluate.samples`), ``harness.json`` (the harness's
    figures, each task of a group included), ``perplexity_tokens.parquet`` (one row a token) and what `slim.evaluate.fidelity.measure`
    writes.

    Args:
        engine: stays open.
        tokenizer_dir: directory with the checkpoint's tokenizer.
        config: what to measure.
        out: existing directory.
        seed: of the choice of few-shot examples.
        against: the baseline's distributions, or that this is a baseline; by default neither.
        trust_remote_code: run tokenizer code that comes with the model.
        pieces: where finished parts and answers are kept until all is done, and taken from; None keeps nothing.
        prepared: what `prepare` returned for the same arguments; None prepares now.
        on_progress: told what is running, in requests.

    Raises:
        ConfigError, StageError: as `prepare`; or a task fails, or the engine does.
    """
    if prepared is None:
        prepared = prepare(
            tokenizer_dir, config, seed=seed, trust_remote_code=trust_remote_code, pieces=pieces, on_progress=on_progress
        )
    work = _Work(engine, config, prepared, pieces)
    steps = work.steps()
    parts: list[Part] = []
    with _one_process():
        for place, step in enumerate(steps, start=1):
            parts.append(work.part(step, _numbered(on_progress, place, len(steps))))
        compared = Fidelity()
        if config.perplexity_text is not None:
            # Seconds of work, so it is not kept apart.
            passage = text.load(config.perplexity_text)
            compared = fidelity.measure(
                engine, prepared.tokenizer, passage, config, out, against=against, on_progress=on_progress
            )
    found = combine(parts, out, compared.notes)
    return replace(
        found,
        params={**found.params, **compared.params, **work.resumed()},
        metrics={**found.metrics, **compared.metrics, **work.timing()},
    )


@dataclass(frozen=True)
class _Step:
    """One part of the work.

    Attributes:
        piece: name that the part is kept under.
        title: what a person reads.
        run: does it.
    """

    piece: str
    title: str
    run: Callable[[Engine, OnProgress], Part]


class _Work:
    """The parts of one evaluation, taken over from an earlier attempt or run now."""

    def __init__(self, engine: Engine, config: EvaluateConfig, prepared: Prepared, pieces: Pieces | None) -> None:
        self.engine = engine
        self.config = config
        self.prepared = prepared
        self.pieces = pieces
        self.parts = self.answers = 0
        self.earlier_s = pieces.work_s if pieces is not None else 0.0

    def steps(self) -> list[_Step]:
        """All parts, in order."""
        found = [_Step(_task_piece(self.config, entry), entry.name, self._task(entry.name)) for entry in self.config.tasks]
        if self.config.perplexity_text is not None:
            found.append(_Step("perplexity", "perplexity", self._text))
        return found

    def part(self, step: _Step, on_progress: OnProgress) -> Part:
        """One part: read where an earlier attempt finished it, else run and kept."""
        part = _finished(self.pieces, step.piece)
        if part is not None:
            self.parts += 1
            return part
        # The harness may take minutes to put a task's questions together.
        on_progress(Progress(step.title, 0, None, "requests"))
        if self.pieces is None:
            return step.run(self.engine, on_progress)
        keeping = KeepingEngine(self.engine, self.pieces, step.piece)
        part = step.run(cast(Engine, keeping), on_progress)
        self.answers += keeping.recalled
        with self.pieces.writing(step.piece) as path:
            part.write(path)
        return part

    def resumed(self) -> dict[str, int]:
        """Params that say what was taken over."""
        counts = {"evaluate.resumed_parts": self.parts, "evaluate.resumed_answers": self.answers}
        return {name: count for name, count in counts.items() if count}

    def timing(self) -> dict[str, float]:
        """The work that was taken over."""
        return {"timing/resumed_s": self.earlier_s} if self.parts or self.answers else {}

    def _task(self, name: str) -> Callable[[Engine, OnProgress], Part]:
        def run(engine: Engine, on_progress: OnProgress) -> Part:
            from slim.evaluate.harness import EngineLM
            from slim.evaluate.running import run_task

            config = self.config
            lm = EngineLM(engine, self.prepared.tokenizer, batch_size=config.batch_size, max_gen_tokens=config.max_gen_tokens)
            lm.step, lm.on_progress = name, on_progress
            return run_task(self.prepared.tasks[name], lm, config)

        return run

    def _text(self, engine: Engine, on_progress: OnProgress) -> Part:
        from slim.evaluate.running import run_text

        return run_text(engine, self.prepared.tokenizer, self.config, on_progress)


def _task_piece(config: EvaluateConfig, entry: TaskEntry) -> str:
    return f"task{config.tasks.index(entry)}-{metric_name(entry.name)}"


def _finished(pieces: Pieces | None, name: str) -> Part | None:
    """The part that an earlier attempt finished; one that cannot be read any more is removed."""
    path = pieces.find(name) if pieces is not None else None
    if pieces is None or path is None:
        return None
    part = Part.read(path)
    if part is None:
        pieces.discard(name)
    return part


def _numbered(on_progress: OnProgress, part: int, parts: int) -> OnProgress:
    return lambda progress: on_progress(replace(progress, part=part, parts=parts))


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
