"""Measure latency, throughput, memory and, on a GPU, energy of one configuration; quantizes first where that is not done yet."""

from typing import Any

import click

from entrypoints import _options as opt
from entrypoints import _stage


@click.command(help=__doc__)
@opt.which_model
@click.option("--precision", required=True, help="Precision to serve, such as bf16 or gptq-int4.")
@click.option(
    "--engine", type=opt.TEXT, default="", help="Engine: vllm or transformers.  [default: the precision's preferred one]"
)
@click.option("--input-tokens", type=opt.COUNT, default="", help="Tokens of each prompt.  [default: 256]")
@click.option("--output-tokens", type=opt.COUNT, default="", help="Tokens generated for each.  [default: 256]")
@click.option("--requests", type=opt.COUNT, default="", help="Requests of the latency pass.  [default: 50]")
@click.option(
    "--concurrency",
    type=opt.Names(),
    default="",
    help="Concurrencies of the throughput pass, increasing.  [default: 1,8,32,64,128,256]",
)
@opt.stage_common
@opt.tracking
@opt.entry_point
def main(
    input_tokens: int | None, output_tokens: int | None, requests: int | None, concurrency: list[str] | None, **values: Any
) -> None:
    """Parse, run, print."""
    fields = opt.given(
        profile__input_tokens=input_tokens,
        profile__output_tokens=output_tokens,
        profile__requests=requests,
        profile__concurrency=opt.whole_numbers("--concurrency", concurrency),
    )
    _stage.run("profile", fields=fields, **values)


if __name__ == "__main__":
    main()
