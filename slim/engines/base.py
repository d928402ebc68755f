"""What every engine offers. Times are `time.perf_counter` seconds, taken after the device is synchronized."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class EngineSpec:
    """What to open.

    Attributes:
        engine: ``vllm`` or ``transformers`` (``fake`` in tests).
        checkpoint: directory in Hugging Face layout.
        dtype: torch dtype of what is not quantized.
        options: the engine's section of the sweep file, as plain values (`slim.config.VllmOptions` and its siblings).
        seed: of sampling.
        trust_remote_code: run code that comes with the model.
    """

    engine: str
    checkpoint: Path
    dtype: Literal["bfloat16", "float16", "float32"]
    options: dict[str, Any]
    seed: int = 42
    trust_remote_code: bool = False


@dataclass(frozen=True)
class EngineInfo:
    """What was opened.

    Attributes:
        engine: its name.
        version: of the package.
        device: ``cpu`` or ``cuda``.
        max_model_len: context in tokens: prompt and output together.
        vocab_size: token ids are below it.
        weights_bytes: weights as loaded on the device.
        kv_bytes_per_token: cache that one token takes; None when unknown.
        kv_capacity_tokens: tokens that the cache holds; None when it is not bounded beforehand.
        max_concurrency: sequences in flight at most; None when only memory bounds it.
        start_s: from the engine's first import to ready.
    """

    engine: str
    version: str
    device: Literal["cpu", "cuda"]
    max_model_len: int
    vocab_size: int
    weights_bytes: int
    kv_bytes_per_token: int | None
    kv_capacity_tokens: int | None
    max_concurrency: int | None
    start_s: float


@dataclass(frozen=True)
class GenerationRequest:
    """A greedy generation.

    Attributes:
        prompt: token ids, at least one, each below the vocabulary's size.
        max_tokens: new tokens at most.
        ignore_eos: go on to ``max_tokens`` whatever is generated.
        stop: texts that end the generation; the returned text is cut before the first one.
        read_prefix_cache: let the engine reuse what it computed for an earlier prompt; off for measurements.
        token_times: whether the time of each token is wanted; vLLM does less a step where it is not.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    read_prefix_cache: bool = True
    token_times: bool = True


@dataclass(frozen=True)
class Completion:
    """The answer to a `GenerationRequest`.

    Attributes:
        tokens: generated ids, the end-of-sequence token included where one ended it.
        text: decoded, special tokens skipped, cut before the stop text.
        finish_reason: ``stop`` or ``length``.
        submitted_s: when the request was handed over.
        token_times_s: when each token was there; same length as ``tokens``, or empty where the request wanted none.
        cached_tokens: prompt tokens that came from the prefix cache.
        preemptions: times the engine threw the request out of its cache.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    submitted_s: float
    token_times_s: tuple[float, ...]
    cached_tokens: int = 0
    preemptions: int = 0

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.token_times_s[0] - self.submitted_s

    @property
    def e2e_s(self) -> float:
        """Time to last token."""
        return self.token_times_s[-1] - self.submitted_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for a single token."""
        n = len(self.token_times_s)
        return (self.token_times_s[-1] - self.token_times_s[0]) / (n - 1) if n > 1 else None

    @property
    def itl_s(self) -> tuple[float, ...]:
        """Gaps between consecutive tokens."""
        return tuple(b - a for a, b in zip(self.token_times_s, self.token_times_s[1:], strict=False))


@dataclass(frozen=True)
class ScoreRequest:
    """How likely is each of the ``continuations`` after ``context``?

    Attributes:
        context: token ids, at least one.
        continuations: at least one, each of at least one token id; the context with any of them is at most
            ``max_model_len`` tokens.
        greedy: whether it is wanted that the scores say what was most likely; vLLM does less where it is not.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    greedy: bool = True

    @property
    def longest(self) -> int:
        """Tokens of the longest continuation."""
        return max(map(len, self.continuations))


@dataclass(frozen=True)
class Score:
    """The answer about one continuation of a `ScoreRequest`.

    Attributes:
        logprobs: natural log-probability of each of its tokens.
        greedy: whether each is the token that greedy decoding takes at its place: one token, also where several are equally
            likely; may be None where the request did not want it.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...] | None


class Engine(Protocol):
    """A loaded model. Not thread-safe. `close` frees the device; afterwards nothing else may be called."""

    @property
    def info(self) -> EngineInfo:
        """What was opened."""

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """Run all requests, at most ``concurrency`` at a time, greedily; answers in the requests' order.

        An engine with continuous batching hands over the next request when one ends; one without runs batches of
        ``concurrency``, each request handed over when its batch starts.

        Raises:
            ValueError: an empty prompt, a token id beyond the vocabulary, more tokens than ``max_model_len``,
                a concurrency below 1 or beyond ``max_concurrency``.
            StageError: out of memory or a crash of the engine.
        """

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[tuple[Score, ...]]:
        """Log-probabilities of the continuations, in the requests' order and in that of their continuations.

        What requests have in common at their beginnings is computed once where an engine can; neighbours in the order
        of the requests should have much in common.

        Args:
            requests: what to score.
            batch_size: sequences a forward pass, for an engine without continuous batching.

        Raises:
            ValueError, StageError: as `generate`.
        """

    def logits(self, tokens: tuple[int, ...]) -> "npt.NDArray[np.float32]":
        """The model's raw logits along a sequence.

        Args:
            tokens: at least two, at most ``max_model_len``.

        Returns:
            Shape (len(tokens) - 1, vocab_size): row i is about the token that follows ``tokens[: i + 1]``.

        Raises:
            ValueError: as `generate`.
            StageError: the engine cannot give them, or fails.
        """

    def close(self) -> None:
        """Free the device. Calling it twice does nothing."""


@runtime_checkable
class OpenLoopEngine(Engine, Protocol):
    """An engine with continuous batching, which takes requests while others run."""

    def serve(self, requests: Sequence[GenerationRequest], arrivals_s: Sequence[float]) -> list[Completion]:
        """Run all requests, each handed over when its time has come, whether or not earlier ones are done.

        What is beyond the engine's capacity waits in its queue.

        Args:
            requests: what to run.
            arrivals_s: seconds from the call at which each arrives, not decreasing.

        Returns:
            In the requests' order; ``submitted_s`` is the arrival, so that times from it hold the waiting.

        Raises:
            ValueError: as `generate`; or arrivals that decrease, are negative, or are not one a request.
            StageError: as `generate`.
        """
