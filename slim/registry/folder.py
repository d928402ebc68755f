"""The card beside a checkpoint's weights. It is no part of the manifest, so that writing it leaves every hash as it was."""

import tempfile
from pathlib import Path

from slim.files import replacing
from slim.registry.words import CARD
from slim.store import Store, checkpoints
from slim.store.connection import translated


def write_card(store: Store, model_id: str, text: str) -> bool:
    """Write a card beside a LoggedModel's weights unless it is there already; return whether it was written."""
    with translated(f"writing the card of {model_id}"):
        location = store.client.get_logged_model(model_id).artifact_location
        local = checkpoints.local_directory(location)
        if local is not None:
            if _read(local / CARD) == text:
                return False
            # A new file under the old name: what else is linked to the old one stays as it is, and nobody reads half a card.
            with replacing(local / CARD) as aside:
                aside.write_text(text, encoding="utf-8")
            return True
        with tempfile.TemporaryDirectory() as directory:
            if any(file.path == CARD for file in store.client.list_logged_model_artifacts(model_id)):
                from mlflow.artifacts import download_artifacts

                known = download_artifacts(
                    artifact_uri=f"{location.rstrip('/')}/{CARD}", dst_path=directory, tracking_uri=store.tracking_uri
                )
                if _read(Path(known)) == text:
                    return False
            card = Path(directory) / CARD
            card.write_text(text, encoding="utf-8")
            store.client.log_model_artifact(model_id, str(card))
            return True


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
