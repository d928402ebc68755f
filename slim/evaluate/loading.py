"""Loading tasks with the harness: only the files that are needed, data from a local mirror where there is one.

Imports the harness at its top, so import it only where something is evaluated.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind

from slim.config import TaskEntry
from slim.errors import Reason, SlimError, StageError
from slim.evaluate import mirror
from slim.evaluate.tasks import BUILTIN_DIR, TaskFile, builtin_tasks, find, harness_tasks
from slim.records import OnProgress, Progress, ignore_progress

_KINDS = {"task": Kind.TASK, "python": Kind.PY_TASK, "group": Kind.GROUP, "tag": Kind.TAG}


@dataclass(frozen=True)
class LoadedTask:
    """An entry of the sweep file, ready for the harness.

    Attributes:
        entry: as configured.
        limit: items a task at most; None is all.
        leaves: the harness's tasks by name; one unless the entry names a group or a tag.
        groups: the harness's groups by name; empty unless the entry names a group.
        sources: where each leaf's data came from.
        randomness: state of the global generators after loading.
    """

    entry: TaskEntry
    limit: int | None
    leaves: Mapping[str, Any]
    groups: Mapping[str, Any]
    sources: Mapping[str, str]
    randomness: tuple[Any, ...] = field(repr=False)

    @property
    def task_dict(self) -> dict[str, Any]:
        """As ``lm_eval.evaluate`` takes it."""
        return {"tasks": dict(self.leaves), "groups": dict(self.groups)}

    @property
    def likelihoods_only(self) -> frozenset[str]:
        """Leaves that compare the likelihoods of choices, and nothing else that a model says about them."""
        # exact_match asks what greedy decoding gives.
        return frozenset(
            name for name, leaf in self.leaves.items() if compares_choices(leaf) and "exact_match" not in leaf._metric_fn_list
        )

    def restore_randomness(self) -> None:
        """Put the global generators where they were after loading: a few tasks draw from them again while they run."""
        random.setstate(self.randomness[0])
        np.random.set_state(self.randomness[1])


def load_tasks(
    entries: Sequence[TaskEntry],
    *,
    limit: int | None,
    data_dir: Path | None,
    seed: int,
    on_progress: OnProgress = ignore_progress,
) -> list[LoadedTask]:
    """Load the tasks with their data, few-shot counts and few-shot seeds set.

    As in the harness, a group's task that fixes its few-shot count at 0 keeps it. The global generators are seeded before
    each entry as ``lm_eval.simple_evaluate`` does, since a few tasks shuffle while they load: so an entry is the same
    whatever entries stand beside it.

    Args:
        entries: what to load.
        limit: for entries without a limit of their own.
        data_dir: mirror of Hub data sets, ``<organisation>/<name>``; None loads from the Hub.
        seed: of the choice of few-shot examples.
        on_progress: told before each task that is loaded.

    Raises:
        ConfigError: an unknown task.
        StageError: data that cannot be had, a task that does not load.
    """
    manager = _manager(entries, data_dir, on_progress)
    loaded = []
    for entry in entries:
        random.seed(seed)
        np.random.seed(seed)
        found = manager.load([entry.name])
        leaves = found["tasks"]
        for task in leaves.values():
            _set_examples(task, entry.num_fewshot, seed)
        sources = {name: manager.sources.get(name, "") for name in leaves}
        loaded.append(LoadedTask(entry, entry.limit or limit, leaves, found.get("groups", {}), sources, randomness()))
    return loaded


def randomness() -> tuple[Any, ...]:
    """Return the state of the global generators."""
    return random.getstate(), np.random.get_state()


def _manager(entries: Sequence[TaskEntry], data_dir: Path | None, on_progress: OnProgress) -> "_Manager":
    only_builtin = all(find(entry.name) is builtin_tasks().get(entry.name) for entry in entries)
    return _Manager({**({} if only_builtin else harness_tasks()), **builtin_tasks()}, data_dir, on_progress)


def _set_examples(task: Any, num_fewshot: int | None, seed: int) -> None:
    """What ``lm_eval.simple_evaluate`` does with ``num_fewshot`` and ``fewshot_random_seed``."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def compares_choices(task: Any) -> bool:
    """Whether a task of the harness is scored by its own comparison of choices with the right one, not by code of the task."""
    return (
        task.OUTPUT_TYPE == "multiple_choice"
        and type(task).process_results is ConfigurableTask.process_results
        and not callable(task.config.process_results)
    )


class _Manager(TaskManager):  # type: ignore[misc]
    """The harness's manager over an index that has been read already, which saves it half a minute."""

    def __init__(self, known: Mapping[str, TaskFile], data_dir: Path | None, on_progress: OnProgress) -> None:
        super().__init__(include_path=str(BUILTIN_DIR), include_defaults=False)
        self.task_index.update(
            {name: Entry(name, _KINDS[task.kind], task.path, tags=set(task.members)) for name, task in known.items()}
        )
        self._factory = _Factory(data_dir, on_progress)
        self.sources: dict[str, str] = self._factory.sources


class _Factory(TaskFactory):  # type: ignore[misc]
    """Builds tasks with their data taken from the mirror, and says which data set could not be had."""

    def __init__(self, data_dir: Path | None, on_progress: OnProgress) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.on_progress = on_progress
        self.sources: dict[str, str] = {}
        self._caches: dict[str, str | None] = {}

    def _build_task(self, entry: Any, overrides: dict[str, Any] | None) -> Any:
        self.on_progress(Progress("load tasks", len(self.sources), None, "tasks"))
        settings = self._load_full_config(entry, overrides)
        wanted = settings.get("dataset_path")
        local = self._mirrored(wanted)
        try:
            task = super()._build_task(entry, {**(overrides or {}), **(self._from(local, settings) if local else {})})
        except SlimError:
            raise
        except (OSError, datasets.exceptions.DatasetsError, ValueError, RuntimeError, KeyError) as error:
            if settings.get("custom_dataset") is not None or not wanted:
                raise StageError(Reason.EVALUATION, f"task {entry.name!r} does not load: {_one_line(error)}") from error
            subset = f" ({settings['dataset_name']})" if settings.get("dataset_name") else ""
            where = f"in {local}" if local else "from the Hub"
            raise StageError(
                Reason.DATA_UNAVAILABLE,
                f"data set {wanted!r}{subset} of task {entry.name!r} cannot be had {where}: {_one_line(error)}; evaluate.data_dir "
                f"takes a directory with a copy, made by: {mirror.command(wanted, self.data_dir)}",
            ) from error
        except Exception as error:  # a task is code of others, which may raise anything
            raise StageError(Reason.EVALUATION, f"task {entry.name!r} does not load: {_one_line(error)}") from error
        builtin = entry.yaml_path is not None and entry.yaml_path.parent == BUILTIN_DIR
        self.sources[task.task_name] = f"builtin:{entry.name}" if builtin else local or str(wanted or "harness")
        return task

    def _from(self, local: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that load a task's data from a local copy."""
        wanted = settings["dataset_path"]
        if wanted not in self._caches:
            self._caches[wanted] = mirror.cache_dir(wanted, self.data_dir)
        return {
            "dataset_path": local,
            "dataset_kwargs": {**(settings.get("dataset_kwargs") or {}), "cache_dir": self._caches[wanted]},
        }

    def _mirrored(self, wanted: Any) -> str | None:
        """Directory of the mirror that holds the data set; None without one."""
        path = mirror.local_copy(wanted, self.data_dir) if isinstance(wanted, str) else None
        return str(path) if path is not None else None


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
