"""Out of memory, once more with less: where that leaves what is measured comparable, and saying so.

What may shrink is what a measurement does not depend on: the batch in which the transformers engine scores an evaluation, and vLLM's
cache on a CPU as long as it holds all that runs at once. On a GPU vLLM's cache is what is left over by itself; a workload that does not
fit is a result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slim import checkpoint as checkpoints
from slim import models
from slim.errors import Reason, StageError
from slim.jobs import Job, Spool, Spooled, StageOrder
from slim.preflight import cache_bytes_per_token
from slim.records import Stage
from slim.store.contract import TAG

_GIB = 1 << 30


@dataclass(frozen=True)
class Smaller:
    """A job that needs less.

    Attributes:
        job: with the stages that were out of memory.
        params: what was changed, as the runs' params call it, by stage.
    """

    job: Job
    params: Mapping[Stage, Mapping[str, Any]]

    def told(self, spool: Spool, spooled: Spooled) -> Spooled:
        """Write into a result what was changed for it."""
        result = spooled.result
        changed = self.params[result.stage]
        tags = {**result.tags, TAG.RETRIED: "out_of_memory: " + ", ".join(f"{name} {value}" for name, value in changed.items())}
        said = replace(result, params={**result.params, **changed}, tags=tags)
        spool.amend(said)
        return spool.find(result.key) or Spooled(spooled.path, said)


def smaller(job: Job, results: Sequence[Spooled], *, on_gpu: bool) -> Smaller | None:
    """Return a job that needs less for the stages that were out of memory; None where there are none, or nothing may shrink.

    Args:
        job: that was run.
        results: what came of it.
        on_gpu: the worker had a GPU, wherever that was.
    """
    failed = {s.result.key for s in results if s.result.failure and s.result.failure.reason is Reason.OUT_OF_MEMORY}
    orders = tuple(order for order in job.orders if order.key in failed)
    if not orders:
        return None
    if job.engine == "vllm":
        options = None if on_gpu else _smaller_cache(job, orders)
        if options is None:
            return None
        changed = {"engine_options.cpu_kv_cache_gib": options["cpu_kv_cache_gib"]}
        return Smaller(replace(job, orders=orders, options=options), {order.stage: changed for order in orders})
    halved = tuple(order for order in orders if order.stage == "evaluate" and order.config.get("batch_size", 1) > 1)
    if not halved:
        return None
    (order,) = halved
    batch = max(1, order.config["batch_size"] // 4)
    order = replace(order, config={**order.config, "batch_size": batch})
    return Smaller(replace(job, orders=(order,)), {"evaluate": {"evaluate.batch_size": batch}})


def _smaller_cache(job: Job, orders: Sequence[StageOrder]) -> dict[str, Any] | None:
    """vLLM's options with the cache that the work needs, if that is half of what was asked for or less; None otherwise."""
    asked_gib = job.options.get("cpu_kv_cache_gib", 2.0)
    path = job.checkpoint or models.materialized(job.source)
    if path is None:
        return None
    try:
        shape = checkpoints.describe(models.materialized(job.source) or path)
    except StageError:
        return None
    # One whole context at least, and whatever a profile has in flight at most.
    tokens = job.options.get("max_model_len", 8192)
    for order in orders:
        if order.stage == "profile":
            running = min(max([1, *order.config["concurrency"]]), job.options.get("max_num_seqs", 256))
            tokens = max(tokens, running * (order.config["input_tokens"] + order.config["output_tokens"]))
    needed_gib = 1.1 * tokens * cache_bytes_per_token(shape) / _GIB
    if needed_gib > asked_gib / 2:
        return None
    return {**job.options, "cpu_kv_cache_gib": asked_gib / 2}
