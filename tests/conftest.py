"""Fixtures that several parts' tests share."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from slim.store import Store
from tests.tiny import make_tiny_model

# The same examples every time, so that a run that failed fails again; and no clock decides whether a test passes.
settings.register_profile("slim", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slim")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directory of a tiny random Llama with a tokenizer and a chat template; do not write into it."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database; copying it is much faster than making one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert Store.open(f"sqlite:///{path}", "slim") is not None
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Store:
    """An empty store of its own, in ``tmp_path``."""
    with sqlite3.connect(empty_database) as source, sqlite3.connect(tmp_path / "mlflow.db") as target:
        source.backup(target)
        target.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'slim'", [(tmp_path / "artifacts").as_uri()])
    opened = Store.open(f"sqlite:///{tmp_path / 'mlflow.db'}", "slim")
    assert opened is not None
    return opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that two processes that share the files end together."""
    items.sort(key=lambda item: item.path.name != "test_sweep.py")
