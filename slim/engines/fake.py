"""An engine without a model: tokens from a hash, times from a clock of its own. Needs no checkpoint and no torch.

The next token is a hash of the last tokens, and the probability of every other token falls geometrically with its
distance from it, so log-probabilities are exact, normalized and consistent with greedy generation. Time passes only
as `FakeOptions` says, so whoever measures this engine can be held to exact numbers.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

from slim.engines.base import Completion, EngineInfo, EngineSpec, GenerationRequest, Score, ScoreRequest
from slim.engines.checks import check_arrivals, check_generation, check_scores, check_sequence
from slim.engines.decoding import cut
from slim.errors import ConfigError, Reason, StageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_HISTORY = 4
_FIRST_LETTER = ord("a")
_LETTERS = 26


class VirtualClock:
    """A clock that stands still until it is moved.

    Args:
        start_s: its first reading.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Seconds."""
        return self._now_s

    def advance(self, duration_s: float) -> None:
        """Let time pass."""
        self._now_s += duration_s


@dataclass(frozen=True)
class FakeOptions:
    """The options of the engine, each with a default.

    Attributes:
        vocab_size: token ids are below it.
        max_model_len: context in tokens.
        max_concurrency: sequences in flight at most; None is no bound.
        eos: token that ends a sequence; None never ends one.
        weights_bytes, kv_bytes_per_token, kv_capacity_tokens: reported as they are.
        prefill_s_per_token: time of a prompt token that is not in the prefix cache.
        decode_step_s: time of a step that gives one sequence its next token.
        extra_sequence_s: added to a step for each further sequence in it.
        out_of_memory_beyond: sequences at once beyond which the device is out of memory; None never.
        crash_after_steps: steps after which the engine breaks, once; None never.
    """

    vocab_size: int = 256
    max_model_len: int = 1024
    max_concurrency: int | None = 256
    eos: int | None = 0
    weights_bytes: int = 1 << 20
    kv_bytes_per_token: int | None = 1024
    kv_capacity_tokens: int | None = 65536
    prefill_s_per_token: float = 0.001
    decode_step_s: float = 0.01
    extra_sequence_s: float = 0.001
    out_of_memory_beyond: int | None = None
    crash_after_steps: int | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "FakeOptions":
        """Return the options that ``values`` describe.

        Raises:
            ConfigError: an unknown key.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"engines.fake: unknown key {key!r}; allowed: {', '.join(known)}")
        return cls(**values)


@dataclass
class _Sequence:
    index: int
    request: GenerationRequest
    submitted_s: float
    cached: int
    tokens: list[int]
    times_s: list[float]
    finished: str | None = None


class FakeEngine:
    """See the module.

    Args:
        spec: its options are those of `FakeOptions`; the checkpoint is not looked at.
        clock: the engine reads and moves it; a new one that starts at 0 when None.
    """

    def __init__(self, spec: EngineSpec, clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.options = FakeOptions.parse(spec.options)
        self.is_open = True
        self._steps = 0
        self._prefixes: set[int] = set()
        self._info = EngineInfo(
            engine="fake",
            version="1",
            device="cpu",
            max_model_len=self.options.max_model_len,
            vocab_size=self.options.vocab_size,
            weights_bytes=self.options.weights_bytes,
            kv_bytes_per_token=self.options.kv_bytes_per_token,
            kv_capacity_tokens=self.options.kv_capacity_tokens,
            max_concurrency=self.options.max_concurrency,
            start_s=0.0,
        )

    @property
    def info(self) -> EngineInfo:
        """What was opened."""
        return self._info

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """See `slim.engines.base.Engine`."""
        check_generation(requests, concurrency, self._info)
        return self._run(requests, concurrency, None)

    def serve(self, requests: Sequence[GenerationRequest], arrivals_s: Sequence[float]) -> list[Completion]:
        """See `slim.engines.base.OpenLoopEngine`; what arrives during a step joins the next one."""
        check_generation(requests, 1, self._info)
        check_arrivals(requests, arrivals_s)
        start_s = self.clock.now()
        return self._run(requests, self._info.max_concurrency or len(requests), [start_s + s for s in arrivals_s])

    def _run(self, requests: Sequence[GenerationRequest], concurrency: int, due_s: Sequence[float] | None) -> list[Completion]:
        waiting = deque(enumerate(requests))
        running: list[_Sequence] = []
        answers: dict[int, Completion] = {}
        while waiting or running:
            new: list[_Sequence] = []
            while waiting and len(running) + len(new) < concurrency:
                submitted_s = self.clock.now() if due_s is None else due_s[waiting[0][0]]
                if submitted_s > self.clock.now():
                    if running or new:
                        break
                    self.clock.advance(submitted_s - self.clock.now())
                index, request = waiting.popleft()
                new.append(_Sequence(index, request, submitted_s, self._cached(request), [], []))
            self._step(new, running)
            running += new
            for sequence in running:
                self._take(sequence)
                if sequence.finished:
                    answers[sequence.index] = self._completion(sequence)
            running = [sequence for sequence in running if not sequence.finished]
        return [answers[index] for index in range(len(requests))]

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[tuple[Score, ...]]:
        """See `slim.engines.base.Engine`."""
        check_scores(requests, batch_size, self._info)
        return [tuple(self._score(request, continuation) for continuation in request.continuations) for request in requests]

    def logits(self, tokens: tuple[int, ...]) -> "npt.NDArray[np.float32]":
        """See `slim.engines.base.Engine`."""
        import numpy as np

        check_sequence(tokens, self._info)
        size = self.options.vocab_size
        best = np.array([[self.next_token(tokens[: end + 1])] for end in range(len(tokens) - 1)])
        logits: npt.NDArray[np.float32] = (-math.log(2) * ((np.arange(size) - best) % size)).astype(np.float32)
        return logits

    def close(self) -> None:
        """See `slim.engines.base.Engine`."""
        self.is_open = False

    def next_token(self, tokens: Sequence[int]) -> int:
        """Return the most likely token after ``tokens``: an FNV hash of the last few, over the vocabulary."""
        state = 0x811C9DC5
        for token in tokens[-_HISTORY:]:
            state = ((state ^ token) * 0x01000193) & 0xFFFFFFFF
        return (state ^ state >> 15) % self.options.vocab_size

    def logprob(self, tokens: Sequence[int], token: int) -> float:
        """Return the log-probability of ``token`` after ``tokens``.

        With d the distance from the most likely token, counted upwards and around the vocabulary of V tokens,
        p = 2^-d / sum(2^-i for i < V).
        """
        distance = (token - self.next_token(tokens)) % self.options.vocab_size
        return -distance * math.log(2) - math.log(2 * (1 - 2.0**-self.options.vocab_size))

    def text(self, tokens: Sequence[int]) -> str:
        """Return a letter for each token, nothing for the end of sequence."""
        return "".join(chr(_FIRST_LETTER + token % _LETTERS) for token in tokens if token != self.options.eos)

    def _score(self, request: ScoreRequest, continuation: tuple[int, ...]) -> Score:
        sequence = request.context + continuation
        self.clock.advance(self.options.prefill_s_per_token * len(sequence))
        places = range(len(request.context), len(sequence))
        logprobs = tuple(self.logprob(sequence[:place], sequence[place]) for place in places)
        greedy = tuple(self.next_token(sequence[:place]) == sequence[place] for place in places)
        return Score(logprobs, greedy)

    def _cached(self, request: GenerationRequest) -> int:
        """Prompt tokens found in the prefix cache; the last is always computed, since its successor is wanted."""
        if not request.read_prefix_cache:
            return 0
        known = (prefix in self._prefixes for prefix in _prefix_hashes(request.prompt[:-1]))
        return sum(takewhile(bool, known))

    def _step(self, new: list[_Sequence], running: list[_Sequence]) -> None:
        options = self.options
        if options.out_of_memory_beyond is not None and len(new) + len(running) > options.out_of_memory_beyond:
            raise StageError(Reason.OUT_OF_MEMORY, f"{len(new) + len(running)} sequences do not fit")
        if self._steps == options.crash_after_steps:
            self._steps += 1
            raise StageError(Reason.ENGINE_CRASH, f"crashed after {options.crash_after_steps} steps")
        self._steps += 1
        duration_s = options.prefill_s_per_token * sum(len(s.request.prompt) - s.cached for s in new)
        if running:
            duration_s += options.decode_step_s + options.extra_sequence_s * (len(running) - 1)
        self.clock.advance(duration_s)
        for sequence in new:
            self._prefixes.update(_prefix_hashes(sequence.request.prompt))

    def _take(self, sequence: _Sequence) -> None:
        request = sequence.request
        token = self.next_token((*request.prompt, *sequence.tokens))
        sequence.tokens.append(token)
        sequence.times_s.append(self.clock.now())
        ended = token == self.options.eos and not request.ignore_eos
        if ended or cut(self.text(sequence.tokens), request.stop)[1]:
            sequence.finished = "stop"
        elif len(sequence.tokens) == request.max_tokens:
            sequence.finished = "length"

    def _completion(self, sequence: _Sequence) -> Completion:
        return Completion(
            tokens=tuple(sequence.tokens),
            text=cut(self.text(sequence.tokens), sequence.request.stop)[0],
            finish_reason="stop" if sequence.finished == "stop" else "length",
            submitted_s=sequence.submitted_s,
            token_times_s=tuple(sequence.times_s) if sequence.request.token_times else (),
            cached_tokens=sequence.cached,
        )


def _prefix_hashes(tokens: Sequence[int]) -> Iterator[int]:
    """A hash for each prefix of ``tokens``, the shortest first."""
    return accumulate(tokens, lambda state, token: hash((state, token)))
