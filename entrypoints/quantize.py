"""Quantize one model at one precision; the checkpoint is logged as a model and reused by later sweeps."""

from typing import Any

import click

from entrypoints import _options as opt
from entrypoints import _stage


@click.command(help=__doc__)
@opt.which_model
@click.option("--precision", required=True, help="Precision to make, such as gptq-int8, gptq-int4, bnb-int8, bnb-nf4.")
@click.option(
    "--calibration",
    type=opt.TEXT,
    default="",
    help="Calibration text: python-docs, a text file, or a Hub chat data set.  [default: HuggingFaceH4/ultrachat_200k]",
)
@click.option("--samples", type=opt.COUNT, default="", help="Calibration samples.  [default: 512]")
@click.option("--max-tokens", type=opt.COUNT, default="", help="Tokens of a calibration sample at most.  [default: 2048]")
@click.option("--group-size", type=opt.COUNT, default="", help="Weights that share a scale.  [default: 128]")
@opt.stage_common
@opt.tracking
@opt.entry_point
def main(calibration: str | None, samples: int | None, max_tokens: int | None, group_size: int | None, **values: Any) -> None:
    """Parse, run, print."""
    fields = opt.given(
        quantize__calibration=calibration,
        quantize__samples=samples,
        quantize__max_tokens=max_tokens,
        quantize__group_size=group_size,
    )
    _stage.run("quantize", engine=None, fields=fields, **values)


if __name__ == "__main__":
    main()
