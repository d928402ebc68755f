"""How an entry point has to tell a problem."""

import importlib
from pathlib import Path

from click.testing import CliRunner, Result

LONGEST = 700
"""Characters of an error line: what is allowed may be a list, but nobody reads a page."""


def invoke(entry: str, arguments: list[str]) -> Result:
    """Run an entry point in this process."""
    return CliRunner().invoke(importlib.import_module(f"entrypoints.{entry}").main, arguments)


def one_line(result: Result, code: int = 2) -> str:
    """Return the one line in which a problem was told, after checking that it is one and ended with that exit code."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    assert result.stderr.rstrip().endswith(lines[0]), result.stderr
    assert len(lines[0]) <= LONGEST, lines[0]
    return lines[0]


def everything_below(directory: Path) -> set[str]:
    """Names of all files, to see what a command left behind."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
