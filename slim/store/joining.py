"""The run that ``mlflow run`` makes before it starts an entry point."""

from slim.redaction import redact
from slim.store.connection import check_address, open_client, translated
from slim.store.contract import TAG


def experiment_of(tracking_uri: str, join: str | None, named: str) -> str:
    """Return the name of the experiment to write to.

    Args:
        tracking_uri: of the store.
        join: run that ``mlflow run`` made; its experiment goes before ``named``, unless it is MLflow's Default, which is where
            runs go when nobody named one.
        named: the sweep file's.

    Raises:
        StoreConfigError: the store cannot be opened.
    """
    if join is None:
        return named
    client = open_client(check_address(tracking_uri))
    with translated(f"reading run {join}"):
        experiment = client.get_experiment(client.get_run(join).info.experiment_id)
    return named if experiment.experiment_id == "0" else str(experiment.name)


def explain_run(tracking_uri: str, run_id: str, note: str, moved_to: str | None = None) -> None:
    """Say on a run that ``mlflow run`` made why it holds nothing. It cannot be deleted: MLflow ends it after us, and fails if it is gone.

    Args:
        tracking_uri: of the store.
        run_id: the run.
        note: shown as its description.
        moved_to: run that holds the result instead.
    """
    client = open_client(check_address(tracking_uri))
    with translated(f"writing to run {run_id}"):
        client.set_tag(run_id, TAG.NOTE, redact(note))
        if moved_to is not None:
            client.set_tag(run_id, TAG.MOVED, moved_to)
