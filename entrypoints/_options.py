"""Options that several entry points share, and how a problem is told: one line and an exit code.

Exit codes: 0 everything asked for is in the store; 1 something failed or waits to be logged; 2 wrong input, nothing written;
130 interrupted.
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slim.errors import ConfigError, SlimError, UserError
from slim.redaction import redact

Command = Callable[..., None]

_LONGEST_NUMBER = 20
"""Characters; Python itself gives up at thousands of digits, with an error of its own."""

FLAG: dict[str, Any] = {"is_flag": False, "flag_value": True, "default": False, "type": click.BOOL, "show_default": True}
"""A switch that is given as ``--name`` or, since MLproject parameters have values, as ``--name true``."""


class Optional(click.ParamType):
    """A value that may be absent; MLproject passes an absent parameter as empty text."""

    def __init__(self, inner: click.ParamType) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return None for empty text, else what the inner type makes of it."""
        if isinstance(value, str) and not value.strip():
            return None
        if isinstance(value, str) and isinstance(self.inner, click.IntRange) and len(value) > _LONGEST_NUMBER:
            self.fail(f"{value[:_LONGEST_NUMBER]}... is too long for a number", param, ctx)
        return self.inner.convert(value, param, ctx)


TEXT = Optional(click.STRING)
COUNT = Optional(click.IntRange(min=1))
WHOLE = Optional(click.IntRange(min=0))


class Names(click.ParamType):
    """Words separated by commas."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the words; None for empty text."""
        if not isinstance(value, str):
            return value
        return [word.strip() for word in value.split(",") if word.strip()] or None


class Assignments(click.ParamType):
    """``field=value`` pairs separated by ``;``, values as YAML."""

    name = "field=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a mapping from dotted field to value."""
        if not isinstance(value, str):
            return value
        from slim.config import reading

        found: dict[str, Any] = {}
        for pair in (p.strip() for p in value.split(";") if p.strip()):
            field, equals, text = pair.partition("=")
            if not equals or not all(part.strip() for part in field.split(".")):
                self.fail(f"{pair!r} is not of the form field=value", param, ctx)
            try:
                merged(found, {field.strip(): reading.parse(text)})
            except ConfigError as error:
                self.fail(f"{text[:100]!r} {error}", param, ctx)
        return found


def merged(found: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Add assignments to others.

    Raises:
        click.BadParameter: a field has a value already, and another one.
    """
    for field, value in more.items():
        if field in found and found[field] != value:
            raise click.BadParameter(f"{field} is set to {found[field]!r} and to {value!r}; give it one value")
        found[field] = value
    return found


def set_option(help_text: str) -> Callable[[Any], Any]:
    """Return the option ``--set``, which may be repeated."""
    return click.option(
        "--set",
        "assignments",
        type=Assignments(),
        multiple=True,
        callback=lambda ctx, param, values: functools.reduce(merged, values, {}),
        help=help_text,
    )


def parse_tasks(names: list[str] | None) -> list[dict[str, Any]] | None:
    """Return task entries from words such as ``gsm8k`` or ``gsm8k:5`` (five examples in the prompt).

    Raises:
        ConfigError: a few-shot count that is not a whole number.
    """
    if names is None:
        return None
    entries: list[dict[str, Any]] = []
    for word in names:
        name, colon, shots = word.partition(":")
        if colon and not _is_whole(shots):
            raise ConfigError(f"--tasks: {word[:100]!r}: the few-shot count after ':' must be a whole number, as in gsm8k:5")
        entries.append({"name": name, "num_fewshot": int(shots)} if colon else {"name": name})
    return entries


def whole_numbers(option: str, words: list[str] | None) -> list[int] | None:
    """Return words as whole numbers.

    Raises:
        ConfigError: one is not.
    """
    wrong = next((word for word in words or () if not _is_whole(word)), None)
    if wrong is not None:
        raise ConfigError(f"{option}: {wrong[:100]!r} is not a whole number; give them separated by commas, as in 1,8,32")
    return None if words is None else [int(word) for word in words]


def _is_whole(word: str) -> bool:
    return word.isdecimal() and len(word) <= _LONGEST_NUMBER


def given(**values: Any) -> dict[str, Any]:
    """Return the values that were given, dots for double underscores in their names."""
    return {name.replace("__", "."): value for name, value in values.items() if value is not None}


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Combine option decorators, shown in their order."""

    def apply(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


where = options(
    click.option(
        "--experiment",
        type=TEXT,
        default="",
        help="MLflow experiment; `mlflow run --experiment-name` goes before it.  [default: slim]",
    ),
    click.option(
        "--tracking-uri", type=TEXT, default="", help="MLflow tracking store.  [default: MLFLOW_TRACKING_URI, else ./mlflow.db]"
    ),
)

tracking = options(
    where, click.option("--dry-run", **FLAG, help="Print the plan, what would be reused and an estimate; run nothing.")
)

which_model = options(
    click.option("--model", required=True, help="Hub id, local directory, GGUF file, `embedded`, or `synthetic:<preset>`."),
    click.option("--revision", type=TEXT, default="", help="Hub branch, tag or commit.  [default: the default branch]"),
    click.option("--trust-remote-code", **FLAG, help="Run code that comes with the model."),
)

stage_common = options(
    click.option(
        "--config",
        type=TEXT,
        default="",
        help="Sweep file whose sections serve as defaults; its models and precisions are not used.",
    ),
    set_option("Further fields of a sweep file: `profile.requests=5; seed=1`."),
    click.option("--seed", type=WHOLE, default="", help="Seed of everything random.  [default: 42]"),
    click.option("--python", "interpreter", type=TEXT, default="", help="Python interpreter of the worker.  [default: this one]"),
    click.option("--rerun", **FLAG, help="Run even when a finished run with the same key exists."),
)


def entry_point(function: Command) -> Command:
    """Turn the library's errors and the system's into one line and an exit code, and SIGTERM and SIGHUP into an orderly end."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # A terminal that was closed; whoever said nohup wants to go on.
            signal.signal(signal.SIGHUP, _terminate)
        try:
            function(*arguments, **keywords)
        except UserError as error:
            explain_joined_run(f"Wrong input: {error}")
            _fail(str(error), 2)
        except SlimError as error:
            _fail(str(error), 1)
        except BrokenPipeError:
            # Whoever reads has seen enough; click knows.
            raise
        except OSError as error:
            _fail(" ".join(str(error).split()), 1)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to go on", 130)

    return wrapped


def joined_run() -> str | None:
    """Return the run that ``mlflow run`` made for this process, if any."""
    return os.environ.get("MLFLOW_RUN_ID")


def check_file(path: str) -> str:
    """Return the path of a sweep file.

    Raises:
        ConfigError: there is none.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--config: no such sweep file: {path!r}")
    return path


def _terminate(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _fail(message: str, code: int) -> None:
    # The terminal may be what is gone.
    with contextlib.suppress(OSError):
        click.echo(f"Error: {redact(message)}", err=True)
    sys.exit(code)


def explain_joined_run(note: str, moved_to: str | None = None) -> None:
    """Say on the run that ``mlflow run`` made for this process, if any, why it holds nothing."""
    run_id = joined_run()
    if run_id is None:
        return
    from slim.store import default_tracking_uri, explain_run

    with contextlib.suppress(SlimError):
        explain_run(default_tracking_uri(), run_id, note, moved_to)
