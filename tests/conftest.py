"""Fixtures that several parts' tests share."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tiny import make_tiny_model

# The same examples every time, so that a run that failed fails again; and no clock decides whether a test passes.
settings.register_profile("slim", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slim")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directory of a tiny random Llama with a tokenizer and a chat template; do not write into it."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
