"""Write the report of a study, with its figures and tables, to a directory; the store stays as it is.

The same as `study`, for reading, printing or mailing.
"""

import sys
from pathlib import Path
from typing import Any

import click

from entrypoints import _options as opt
from entrypoints import _study
from slim.errors import ConfigError


@click.command(help=__doc__)
@_study.question
@click.option("--out", default="report", show_default=True, help="Directory; files of an earlier report in it are replaced.")
@click.option("--formats", type=opt.Names(), default="", help="Formats of the figures: png, svg, pdf.  [default: png,svg]")
@opt.entry_point
def main(out: str, formats: list[str] | None, **values: Any) -> None:
    """Parse, compute, write, print."""
    from rich.console import Console

    from analysis import evidence

    asked = tuple(formats or evidence.FORMATS)
    if not out.strip():
        raise ConfigError("--out is empty; name a directory, such as report")
    evidence.check(Path(out), asked)
    _, found = _study.make(writes=False, **values)
    path = evidence.write(found, Path(out), formats=asked)
    Console(width=None if sys.stdout.isatty() else 160).print(f"Wrote {path}", highlight=False, markup=False, soft_wrap=True)
    opt.explain_joined_run(f"A report, written to {path}.")


if __name__ == "__main__":
    main()
