"""Which tasks there are: the built-in ones and the harness's, found without importing the harness.

The harness's own index takes half a minute to build when its 14,000 files are cold and imports half of the Hugging Face
stack first. Planning needs only names, kinds and a few fields, so the same files are read here once, each parsed once.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from slim import text
from slim.config import EvaluateConfig, TaskEntry
from slim.errors import ConfigError
from slim.evaluate import lookup, mirror
from slim.evaluate.builtin import items

BUILTIN_DIR = Path(items.__file__).parent
_IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}
_GROUP_FIELDS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata"}


@dataclass(frozen=True)
class TaskFile:
    """A name of the harness's index.

    Attributes:
        name: what a sweep file calls it.
        kind: a task, one whose class is Python code, a group of tasks, or a tag that several tasks carry.
        path: the YAML file; None for a tag.
        settings: the file's fields with its includes merged in; functions are left as names.
        members: for a tag, the tasks that carry it.
    """

    name: str
    kind: Literal["task", "python", "group", "tag"]
    path: Path | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    members: frozenset[str] = frozenset()


def versions_that_matter() -> tuple[str, ...]:
    """Distributions whose version can change an answer or its score, beside the engine's."""
    return ("lm-eval", "transformers", "tokenizers")


def builtin_tasks() -> Mapping[str, TaskFile]:
    """The offline tasks of this package, by name."""
    return index_of(BUILTIN_DIR)


def harness_tasks() -> Mapping[str, TaskFile]:
    """Everything the installed harness knows, by name.

    Raises:
        ConfigError: the harness is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package lm-eval is not installed, so only the built-in tasks can be named: {', '.join(sorted(builtin_tasks()))}"
        )
    return index_of(Path(spec.submodule_search_locations[0]) / "tasks")


@cache
def index_of(folder: Path) -> Mapping[str, TaskFile]:
    """Index the task files below ``folder`` as ``lm_eval.tasks.TaskManager`` does: the first file of a name wins."""
    parsed: dict[Path, Any] = {}
    found: dict[str, TaskFile] = {}
    carriers: dict[str, set[str]] = {}
    paths = (p for p in folder.glob("**/*.yaml") if not _IGNORED_FOLDERS.intersection(p.parts))
    for path in sorted(paths, key=lambda p: p.as_posix()):
        settings = _merged(path.resolve(), parsed, set())
        if settings is None:
            continue
        kind: Literal["task", "python", "group"] = "python" if "class" in settings else "group" if "group" in settings else "task"
        name = settings.get("group" if kind == "group" else "task")
        if not isinstance(name, str) or name in found:
            continue
        found[name] = TaskFile(name, kind, path, settings)
        if kind != "group":
            for tag in _listed(settings.get("tag")):
                carriers.setdefault(tag, set()).add(name)
    for tag, names in carriers.items():
        found.setdefault(tag, TaskFile(tag, "tag", None, members=frozenset(names)))
    return found


def find(name: str) -> TaskFile:
    """Return the built-in or harness task, group or tag called ``name``.

    Raises:
        ConfigError: there is none; the message holds names that look alike.
    """
    known = builtin_tasks()
    if name in known:
        return known[name]
    if not name.startswith("slim_"):
        known = {**harness_tasks(), **known}
        if name in known:
            return known[name]
    near = lookup.near(name, known)
    hint = f"near: {', '.join(near)}" if near else f"built in: {', '.join(sorted(builtin_tasks()))}"
    raise ConfigError(f"evaluate.tasks: unknown task {name!r}; {hint}; `python -m entrypoints.tasks` lists all")


def listed(pattern: str | None = None) -> list[TaskFile]:
    """Return the tasks, groups and tags whose names match; see `slim.evaluate.lookup.matching`.

    Raises:
        ConfigError: none does; the message holds names that look alike.
    """
    known = {**harness_tasks(), **builtin_tasks()}
    found = lookup.matching(pattern, known)
    if not found:
        near = lookup.near(pattern or "", known)
        raise ConfigError(f"no task matches {pattern!r}" + (f"; near: {', '.join(near)}" if near else ""))
    return found


def check_tasks(config: EvaluateConfig) -> None:
    """Make sure that every task exists and can be run as asked, without the harness, an engine or the network.

    Raises:
        ConfigError: an unknown task; a task that two entries contain; examples asked of a task that has none or fixes their number; a task that needs
            images, sound or the running of generated code; a ``data_dir`` that is no directory; data that is not on this machine
            while the Hub must not be asked; a text that cannot be read or is empty.
    """
    owners: dict[str, str] = {}
    for entry in config.tasks:
        task = find(entry.name)
        if task.kind == "task":
            _check_settings(entry, task.settings)
        for leaf in leaves(task):
            owner = owners.setdefault(leaf, entry.name)
            if owner != entry.name:
                raise ConfigError(f"evaluate.tasks: {owner!r} and {entry.name!r} both contain {leaf!r}; name only one of them")
    mirror.check(data_sets(config), _data_dir(config))
    if config.perplexity_text is not None and not text.load(config.perplexity_text).strip():
        raise ConfigError(f"evaluate.perplexity_text: {config.perplexity_text!r} is empty")


def data_sets(config: EvaluateConfig) -> dict[str, str]:
    """Return the Hub ids of the data sets that the tasks' files name, and for each a task that reads it.

    Tasks whose class is Python code may read others; what their files do not name is not known here.
    """
    found: dict[str, str] = {}
    for entry in config.tasks:
        for leaf, settings in sorted(_leaves(_index_with(entry.name)[entry.name]).items()):
            wanted = settings.get("dataset_path")
            # A Hub id of these days; what has no slash is a kind of file, such as json.
            if isinstance(wanted, str) and wanted.count("/") == 1 and not Path(wanted).exists():
                found.setdefault(wanted, leaf)
    return found


def _data_dir(config: EvaluateConfig) -> Path | None:
    return Path(config.data_dir) if config.data_dir is not None else None


def leaves(task: TaskFile) -> frozenset[str]:
    """Names of the single tasks that a task, group or tag stands for; a task that only a group's file has is ``<group>::<task>``."""
    return frozenset(_leaves(task))


def _leaves(task: TaskFile, overrides: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
    """Settings of the single tasks by name.

    Args:
        task: what stands for them.
        overrides: settings of the groups around it, which come before a task's own.
    """
    overrides = overrides or {}
    if task.kind == "group":
        return _members(task.name, task.settings, overrides)
    known = _index_with(task.name)
    return {name: {**known[name].settings, **overrides} for name in (task.members if task.kind == "tag" else [task.name])}


def _members(group: str, settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Settings of a group's single tasks by name, as ``lm_eval.tasks._factory`` finds them.

    A member is a name; or a mapping with the name of a task or group and settings for it; or, where the index does not have the
    name, a group or task that is written out in place.
    """
    known = _index_with(group.partition("::")[0])
    overrides = {**_of_tasks(settings), **overrides}
    listed = settings.get("task")
    found: dict[str, Mapping[str, Any]] = {}
    for member in listed if isinstance(listed, list) else ():
        item = {"task": member} if isinstance(member, str) else member
        name = item.get("group", item.get("task"))
        if not isinstance(name, str) or name == group:
            continue  # without a name the harness refuses the group
        if name in known:
            found |= _leaves(known[name], {**overrides, **_of_tasks(item)})
        elif "group" in item:
            found |= _members(f"{group}::{name}", item, overrides)
        else:
            found[f"{group}::{name}"] = {**overrides, **_of_tasks(item)}
    return found


def _of_tasks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a group's settings say about its tasks."""
    return {key: value for key, value in settings.items() if key not in _GROUP_FIELDS}


def _index_with(name: str) -> Mapping[str, TaskFile]:
    """The index that has a name."""
    known = builtin_tasks()
    return known if name in known else harness_tasks()


def _check_settings(entry: TaskEntry, settings: Mapping[str, Any]) -> None:
    """Refuse what the task's own file rules out."""
    if any(settings.get(key) for key in ("doc_to_image", "doc_to_audio")):
        raise ConfigError(f"evaluate.tasks: {entry.name!r} needs images or sound; only text tasks can be run")
    if settings.get("unsafe_code"):
        raise ConfigError(f"evaluate.tasks: {entry.name!r} runs code that the model wrote, which is not supported")
    if not entry.num_fewshot:
        return
    if settings.get("num_fewshot") == 0:
        raise ConfigError(f"evaluate.tasks: {entry.name!r} fixes num_fewshot at 0, got {entry.num_fewshot}")
    examples = settings.get("fewshot_config") or {}
    if not (
        any(settings.get(key) for key in ("training_split", "validation_split", "fewshot_split"))
        or any(examples.get(key) for key in ("split", "samples"))
    ):
        raise ConfigError(
            f"evaluate.tasks: {entry.name!r} has no split to take examples from; num_fewshot must be 0, got {entry.num_fewshot}"
        )


def task_digest(config: EvaluateConfig) -> str:
    """Hash what this package and machine contribute to the questions: built-in tasks that are used, local copies of data, the text.

    The harness's own tasks are covered by its version, data from the Hub by name.

    Raises:
        ConfigError: the text cannot be read.
    """
    digest = hashlib.sha256()
    builtin = builtin_tasks()
    for entry in config.tasks:
        task = builtin.get(entry.name)
        if task is not None and task.path is not None:
            digest.update(task.path.read_bytes())
            digest.update(items.digest(entry.name).encode())
    if config.data_dir is not None:
        digest.update(mirror.fingerprint(data_sets(config), _data_dir(config)).encode())
    if config.perplexity_text is not None:
        digest.update(text.digest(text.load(config.perplexity_text)).encode())
    return digest.hexdigest()[:16]


def _merged(path: Path, parsed: dict[Path, Any], seen: set[Path]) -> dict[str, Any] | None:
    """Return the file's fields over those of its includes; None where the harness would skip the file."""
    if path in seen:
        return None
    seen.add(path)
    if path not in parsed:
        parsed[path] = _parsed(path)
    own = parsed[path]
    if not isinstance(own, dict):
        return None
    merged: dict[str, Any] = {}
    for name in _listed(own.get("include")):
        included = _merged((path.parent / name).resolve(), parsed, seen)
        if included is None:
            return None
        merged.update({key: value for key, value in included.items() if key != "task_list"})
    merged.update({key: value for key, value in own.items() if key != "include"})
    return merged


def _parsed(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except (OSError, yaml.YAMLError):
        return None


def _listed(value: Any) -> Iterator[str]:
    yield from ([value] if isinstance(value, str) else value or [])


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads ``!function module.name`` as its text instead of importing it."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
