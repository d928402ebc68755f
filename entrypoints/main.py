"""The demo's sweep: six configurations of a real small model, on any Linux machine, with no network and no GPU."""

from typing import Any

import click

from entrypoints import _options as opt
from entrypoints import sweep


@click.command(help=__doc__)
@click.option("--config", default="configs/demo.yaml", show_default=True, help="Sweep file (YAML).")
@sweep.PARAMETERS
@opt.entry_point
def main(config: str, **values: Any) -> None:
    """Parse, run, print."""
    sweep.run(config, **values)


if __name__ == "__main__":
    main()
