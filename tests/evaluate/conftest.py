"""A scripted engine over the fake one: it keeps what it was asked, and can be told to fail to score."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from slim.engines import Completion, EngineSpec, GenerationRequest, Score, ScoreRequest
from slim.engines.fake import FakeEngine
from tests.tiny import VOCAB_SIZE


class RecordingEngine(FakeEngine):
    """Keeps the requests.

    Attributes:
        scored, generated: requests in the order in which they came.
        calls: number of calls to `score`.
        broken: requests for which the log-probability is not a number.
    """

    def __init__(self, max_model_len: int) -> None:
        options = {"vocab_size": VOCAB_SIZE, "max_model_len": max_model_len, "kv_capacity_tokens": None}
        super().__init__(EngineSpec("fake", Path(), "bfloat16", options))
        self.scored: list[ScoreRequest] = []
        self.generated: list[GenerationRequest] = []
        self.calls = 0
        self.broken: Callable[[ScoreRequest], bool] = lambda _: False

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """See the base."""
        self.generated += requests
        return super().generate(requests, concurrency)

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[tuple[Score, ...]]:
        """See the base."""
        self.calls += 1
        self.scored += requests
        scores = super().score(requests, batch_size)
        return [
            tuple(Score((float("nan"),) * len(s.logprobs), s.greedy) if self.broken(request) else s for s in found)
            for request, found in zip(requests, scores, strict=True)
        ]


@pytest.fixture
def engine() -> RecordingEngine:
    """A fake engine with room for any built-in prompt."""
    return RecordingEngine(max_model_len=2048)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up data sets stay out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
