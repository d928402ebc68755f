"""The executor that a sweep file asks for, ready to be used while a block runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slim.cluster import connection
from slim.jobs import Spool
from slim.planned import Plan

if TYPE_CHECKING:
    from slim.cluster.executor import RayExecutor


@contextmanager
def opened(plan: Plan, spool: Spool, on_note: Callable[[str], None]) -> "Iterator[RayExecutor | None]":
    """Give the executor of a plan; None for the local one.

    Raises:
        UserError: the cluster cannot be reached.
    """
    config = plan.config
    if config.executor.name == "local":
        yield None
        return
    from slim.cluster.executor import RayExecutor

    with connection.connected(config):
        executor = RayExecutor(config, spool, connection.rooms(), plan.measure.hardware, on_note)
        try:
            yield executor
        finally:
            executor.close()
