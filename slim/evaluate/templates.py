"""The harness's prompt templates, compiled once.

The harness compiles a task's Jinja template anew for every question and every example before it, which for MMLU with five
examples is most of the time that it takes to put the questions together: over a minute, where answering them takes
seconds on a GPU. A compiled template gives the same text as often as it is rendered.

Imports the harness at its top, so import it only where something is evaluated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from jinja2 import Template
from lm_eval.utils import env


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within the block, the harness compiles each template the first time only."""
    if "from_string" in vars(env):
        yield
        return
    compile_one = env.from_string

    def compiled(source: str) -> Template:
        template: Template = compile_one(source)
        # Jinja goes through its chain of scopes at each rendering, which takes longer than a short template.
        template.globals = dict(template.globals)
        return template

    # On the instance, so that it hides the method of the class until the block ends.
    vars(env)["from_string"] = cache(compiled)
    try:
        yield
    finally:
        del vars(env)["from_string"]
