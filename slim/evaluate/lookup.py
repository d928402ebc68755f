"""Finding a task's name: names that look like a wrong one, and names that match a pattern."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slim.evaluate.tasks import TaskFile

_SHOWN = 5
_BEGINNING_AT_LEAST = 3


def near(name: str, known: Mapping[str, "TaskFile"]) -> list[str]:
    """Return names that somebody who wrote ``name`` may have meant, the likeliest first.

    First the same in other letters' case, then what lies in the harness's folder of that name, then what looks alike, then
    what begins like it, with the harness's own tasks before translations, which lie deeper.
    """
    folders = {one: _folder(task, known) for one, task in known.items()}
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(one.lower(), []).append(one)
    wanted = name.lower().strip().replace("-", "_")

    def candidates() -> Iterator[str]:
        yield from folded.get(wanted, ())
        beside = (n for n, folder in folders.items() if folder.name.lower() == wanted)
        yield from sorted(beside, key=lambda n: (wanted not in n.lower(), _plainness(n)))
        for close in get_close_matches(wanted, folded, n=3, cutoff=0.7):
            yield from folded[close]
        if len(wanted) >= _BEGINNING_AT_LEAST:
            alike = (n for n in known if n.lower().startswith(wanted))
            yield from sorted(alike, key=lambda n: (len(folders[n].parts), _plainness(n)))
        for close in get_close_matches(wanted, folded, n=3, cutoff=0.6):
            yield from folded[close]

    return list(dict.fromkeys(candidates()))[:_SHOWN]


def matching(pattern: str | None, known: Mapping[str, "TaskFile"]) -> list["TaskFile"]:
    """Return the tasks, groups and tags whose names match, by name.

    Args:
        pattern: with ``*`` and ``?`` as in file names; without them, any name that holds it; None matches all.
        known: by name.
    """
    wanted = (pattern or "*").lower()
    if not set("*?[") & set(wanted):
        wanted = f"*{wanted}*"
    return [known[name] for name in sorted(known) if fnmatchcase(name.lower(), wanted)]


def _folder(task: "TaskFile", known: Mapping[str, "TaskFile"]) -> Path:
    """Where the task's file lies; for a tag, the folder that holds all tasks which carry it."""
    if task.path is not None:
        return task.path.parent
    return Path(commonpath([str(path.parent) for member in task.members if (path := known[member].path) is not None] or [""]))


def _plainness(name: str) -> tuple[int, str]:
    return len(name), name
