"""The Python API: plan a sweep, run it, run one stage. What the entry points call, for notebooks and scripts too.

from slim import api
from slim.config import SweepConfig

config = SweepConfig.load("configs/demo.yaml")
plan = api.plan(config)
store, outcome = api.run(config)
"""

from slim import files
from slim import plan as planning
from slim.config import SweepConfig
from slim.errors import ConfigError, StoreAwayError
from slim.flush import Flushed
from slim.flush import flush as _flush
from slim.jobs import Spool
from slim.outcomes import Event, OnEvent, SweepOutcome
from slim.planned import Plan
from slim.records import Stage
from slim.single import StageOutcome, run_stage
from slim.store import Store, check_address, default_tracking_uri, experiment_of
from slim.sweep import SweepRun


def _ignore(_: Event) -> None:
    """For callers who do not watch."""


def plan(config: SweepConfig, tracking_uri: str | None = None) -> Plan:
    """Return what a sweep would do; writes nothing.

    Args:
        config: the sweep.
        tracking_uri: MLflow store; None is ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises:
        UserError: something that the sweep names does not exist or cannot be.
    """
    store = Store.open(tracking_uri or default_tracking_uri(), config.experiment, create=False)
    return planning.make(config, store, spool())


def run(
    config: SweepConfig, tracking_uri: str | None = None, on_event: OnEvent = _ignore, join: str | None = None
) -> tuple[Store, SweepOutcome]:
    """Run a sweep and return the store with how it ended.

    Args:
        config: the sweep.
        tracking_uri: as for `plan`.
        on_event: told what happens.
        join: run that becomes the sweep's run, such as the one that ``mlflow run`` made.

    Raises:
        UserError: as for `plan`; nothing has been written then. A store that is away is none: results wait in the spool.
    """
    uri = tracking_uri or default_tracking_uri()
    try:
        # Planned on what is there already, so that wrong input leaves no store behind.
        experiment = experiment_of(uri, join, config.experiment)
        ready = planning.make(config, Store.open(uri, experiment, create=False), spool())
        store = Store.open(uri, experiment)
        assert store is not None
    except StoreAwayError:
        store = Store.later(uri, config.experiment)
        return store, SweepRun(planning.make(config, None, spool()), store, spool(), on_event, join, looked_up=False).execute()
    return store, SweepRun(ready, store, spool(), on_event, join).execute()


def flush(tracking_uri: str | None = None) -> Flushed:
    """Log the results that wait in the spool because the store was away; runs nothing.

    Args:
        tracking_uri: as for `plan`.

    Raises:
        UserError: a sweep is running, or the store is still away.
    """
    return _flush(check_address(tracking_uri or default_tracking_uri()), spool())


def stage(
    name: Stage,
    config: SweepConfig,
    tracking_uri: str | None = None,
    on_event: OnEvent = _ignore,
    *,
    join: str | None = None,
    rerun: bool = False,
) -> tuple[Store, StageOutcome]:
    """Run one stage of one configuration, and its quantize stage when that is not finished.

    Args:
        name: which.
        config: a sweep of one model and one precision.
        tracking_uri, on_event, join: as for `run`.
        rerun: run it even when a finished run with the same key exists.

    Raises:
        UserError, StoreError: as for `run`.
    """
    uri = tracking_uri or default_tracking_uri()
    experiment = experiment_of(uri, join, config.experiment)
    only = planning.only(config, name)
    ready = planning.make(only, Store.open(uri, experiment, create=False), spool())
    store = Store.open(uri, experiment)
    assert store is not None
    return store, run_stage(name, ready, store, spool(), on_event, join=join, rerun=rerun)


def spool() -> Spool:
    """Return the spool of this user on this machine.

    Raises:
        ConfigError: its place cannot be written.
    """
    place = files.home() / "spool"
    if not files.writable(place):
        raise ConfigError(
            f"SLIM_HOME: {str(files.home())!r} cannot be written, and results wait there; set SLIM_HOME to a directory of your own"
        )
    return Spool(place)
