"""Fixtures that several parts' tests share."""

from pathlib import Path

import pytest

from tests.tiny import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directory of a tiny random Llama with a tokenizer and a chat template; do not write into it."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
