"""The executor that a sweep file asks for, ready to be used while a block runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slim.cluster import connection
from slim.cluster.nodes import check, seen_by_workers, this_machine
from slim.errors import UserError
from slim.jobs import Spool
from slim.plan import Plan

if TYPE_CHECKING:
    from slim.cluster.executor import RayExecutor


@contextmanager
def opened(plan: Plan, spool: Spool, on_note: Callable[[str], None]) -> "Iterator[RayExecutor | None]":
    """Give the executor of a plan; None for the local one.

    Raises:
        UserError: the cluster cannot be reached, or is not what it was when the sweep was planned.
    """
    config = plan.config
    if config.executor.name == "local":
        yield None
        return
    from slim.cluster.executor import RayExecutor

    started_here = config.executor.address is None and not connection.is_connected()
    with connection.connected(config):
        nodes = [this_machine(config)] if started_here else connection.nodes(config)
        measure, _ = seen_by_workers(config, nodes)
        planned = plan.measure.hardware
        if (measure.hardware.label, measure.hardware.cores) != (planned.label, planned.cores):
            raise UserError(
                f"executor: the cluster has {measure.hardware.label} with {measure.hardware.cores} cores for a configuration, and had "
                f"{planned.label} with {planned.cores} when the sweep was planned; run the same command again"
            )
        executor = RayExecutor(config, spool, check(config, nodes), on_note)
        try:
            yield executor
        finally:
            executor.close()
