"""Measure the accuracy of one configuration with lm-evaluation-harness; quantizes first where that is not done yet."""

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
@click.option(
    "--tasks",
    type=opt.Names(),
    default="",
    help="Tasks, such as `mmlu:5,gsm8k:5` (few-shot count after the colon).  [default: mmlu:5,gsm8k:5,hellaswag:0]",
)
@click.option("--limit", type=opt.COUNT, default="", help="Items a task at most.  [default: all]")
@click.option("--data-dir", type=opt.TEXT, default="", help="Local mirror of Hub data sets, laid out <organisation>/<name>.")
@click.option("--apply-chat-template", **opt.FLAG, help="Wrap prompts in the tokenizer's chat template.")
@click.option("--system-prompt", type=opt.TEXT, default="", help="System message; needs the chat template.")
@opt.stage_common
@opt.tracking
@opt.entry_point
def main(
    tasks: list[str] | None,
    limit: int | None,
    data_dir: str | None,
    apply_chat_template: bool,
    system_prompt: str | None,
    **values: Any,
) -> None:
    """Parse, run, print."""
    fields = opt.given(
        evaluate__tasks=opt.parse_tasks(tasks),
        evaluate__limit=limit,
        evaluate__data_dir=data_dir,
        evaluate__apply_chat_template=apply_chat_template or None,
        evaluate__system_prompt=system_prompt,
    )
    _stage.run("evaluate", fields=fields, **values)


if __name__ == "__main__":
    main()
