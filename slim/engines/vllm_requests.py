"""Requests in vLLM's words, and its answers in ours. Imported by `slim.engines.vllm` alone, which prepares the process.

vLLM scores a token either inside the prompt (``prompt_logprobs``) or as a candidate for the one token that it always
generates (``logprob_token_ids``). The last token of a continuation takes the second way, which saves computing anything for
it; continuations that differ in it alone, such as all single-token ones of a context, are one request. What comes before it takes the
first. By default vLLM does not read the prefix cache for prompt
log-probabilities, since it has none for the cached tokens. Those of the context are not wanted here, so it is told to
read it. Continuations that begin alike up to the end of a block of the cache would find each other's tokens there; what
they begin with is asked for once, and the rest of each as the continuation of a longer context. What was found in the
cache beyond the context all the same is asked for again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from slim.engines.base import GenerationRequest, Score, ScoreRequest

# Each version of vLLM has a bound on the candidates of a request; this is below all of them.
_CANDIDATES_AT_MOST = 64


def generation_params(request: GenerationRequest) -> Any:
    """Return the sampling parameters of a greedy generation whose tokens come one by one, or all at its end."""
    return SamplingParams(
        temperature=0,
        max_tokens=request.max_tokens,
        ignore_eos=request.ignore_eos,
        stop=list(request.stop) or None,
        # The text is decoded at the end; only a stop text has to be looked for on the way.
        detokenize=bool(request.stop),
        skip_reading_prefix_cache=not request.read_prefix_cache,
        output_kind=RequestOutputKind.DELTA if request.token_times else RequestOutputKind.FINAL_ONLY,
    )


@lru_cache(maxsize=4096)
def logprob_params(*, in_prompt: int | None, candidates: tuple[int, ...], read_cache: bool) -> Any:
    """Return the sampling parameters of a request that is made for its log-probabilities.

    Args:
        in_prompt: most likely tokens beside each of the prompt's own; None for no log-probabilities of the prompt.
        candidates: tokens that are scored at the place after the prompt.
        read_cache: whether the prefix cache may be read.
    """
    return SamplingParams(
        temperature=0,
        max_tokens=1,
        prompt_logprobs=in_prompt,
        logprob_token_ids=list(candidates) or None,
        skip_reading_prefix_cache=not read_cache,
    )


Row = tuple[list[int], list[float]]
"""Tokens at one place, and the log-probability of each."""


@dataclass
class Found:
    """What the engine's core said about a request.

    Attributes:
        prompt: log-probabilities of the prompt's tokens from the second on, those of cached tokens left out or not.
        generated: of the candidates and the token that was generated, in one row.
        cached_tokens: of the prompt, found in the prefix cache.
    """

    prompt: list[Any] = field(default_factory=list)
    generated: Any = None
    cached_tokens: int = 0

    def take(self, output: Any) -> None:
        """Add an ``EngineCoreOutput``."""
        if output.new_prompt_logprobs_tensors is not None:
            self.prompt.append(output.new_prompt_logprobs_tensors)
        if output.new_logprobs is not None:
            self.generated = output.new_logprobs
        if output.prefill_stats is not None:
            self.cached_tokens = output.prefill_stats.num_cached_tokens

    @property
    def prompt_rows(self) -> int:
        """Places of the prompt that have a row."""
        return sum(len(part.logprobs) for part in self.prompt)

    def rows(self, start: int = 0) -> list[Row]:
        """The prompt's rows from ``start`` on: in each its own token first, then the most likely ones."""
        found: list[Row] = []
        for part in self.prompt:
            found += zip(part.logprob_token_ids[start:].tolist(), part.logprobs[start:].tolist(), strict=True)
            start = max(0, start - len(part.logprobs))
        return found

    def last(self) -> Row:
        """The row after the prompt: the generated token and the candidates."""
        return self.generated.logprob_token_ids[0].tolist(), self.generated.logprobs[0].tolist()


@dataclass(frozen=True)
class ScoringJob:
    """A request to vLLM that scores continuations of one context, or parts of them.

    Attributes:
        owner: place of the `ScoreRequest`.
        places: which of its continuations.
        context: tokens; a second part has the first one in it.
        continuations: those that are scored, which differ in their last token only.
        part: 0 for continuations and for what several begin with, 1 for what follows that.
        greedy: whether what is most likely is wanted.
        read_cache: whether the prefix cache may be read.
    """

    owner: int
    places: tuple[int, ...]
    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    part: int
    greedy: bool
    read_cache: bool

    @property
    def prompt(self) -> tuple[int, ...]:
        """Tokens that vLLM is given."""
        return self.context + self.continuations[0][:-1]

    @property
    def params(self) -> Any:
        """Sampling parameters."""
        return logprob_params(
            in_prompt=None if len(self.continuations[0]) == 1 else int(self.greedy),
            candidates=tuple(sorted({c[-1] for c in self.continuations})),
            read_cache=self.read_cache,
        )

    def answers(self, found: Found) -> list[Score] | None:
        """Return the scores that stand in vLLM's tables; None when some were not computed because of the cache.

        Each row of the tables holds the token that was asked for and, where that is wanted, the most likely one: in the
        prompt after it, at the generated place before the candidates, since it was generated. Of tokens that are equally likely
        vLLM names one, so only that one is greedy; ranks would count a tie against both.
        """
        rows: list[Row] = []
        if len(self.continuations[0]) > 1:
            # Some versions leave the rows of cached tokens out, some leave in them whatever was in memory there.
            start = len(self.context) - 1 - (len(self.prompt) - 1 - found.prompt_rows)
            if start < 0 or found.cached_tokens >= len(self.context):
                return None
            rows = found.rows(start)
        rows.append(found.last())
        scores = []
        for continuation in self.continuations:
            score = self._score(continuation, rows)
            if score is None:
                return None
            scores.append(score)
        return scores

    def _score(self, continuation: tuple[int, ...], rows: list[Row]) -> Score | None:
        logprobs, greedy = [], []
        for place, ((tokens, values), token) in enumerate(zip(rows, continuation, strict=True), start=1):
            if token not in tokens:
                return None
            logprobs.append(values[tokens.index(token)])
            greedy.append(token == tokens[0 if place == len(rows) else -1])
        return Score(tuple(logprobs), tuple(greedy) if self.greedy else None)

    def without_cache(self) -> "ScoringJob":
        """The same, everything computed afresh."""
        return replace(self, read_cache=False)


def scoring_jobs(owner: int, request: ScoreRequest, block_tokens: int) -> Iterator[ScoringJob]:
    """Yield the jobs that score a request.

    Args:
        owner: place of the request.
        request: what to score.
        block_tokens: tokens a block of the prefix cache.
    """

    def job(
        places: Sequence[int],
        continuations: Sequence[tuple[int, ...]],
        context: tuple[int, ...] = request.context,
        part: int = 0,
    ) -> ScoringJob:
        return ScoringJob(owner, tuple(places), context, tuple(continuations), part, request.greedy, read_cache=True)

    whole = request.continuations
    singles = [place for place, c in enumerate(whole) if len(c) == 1]
    for places in _batched(singles):
        yield job(places, [whole[place] for place in places])
    missing = -len(request.context) % block_tokens  # of a continuation's tokens, those that fill the block it begins in
    for places in _beginning_alike(whole, missing):
        longer = [place for place in places if len(whole[place]) > missing]
        alone = len(places) == 1 and not (missing == 0 and singles)
        for place in places if alone else [place for place in places if place not in longer]:
            yield job([place], [whole[place]])
        if alone:
            continue
        # The block that these fill would be found in the cache by all but the first.
        for some in _batched(longer):
            yield job(some, [whole[place][: missing + 1] for place in some])
        for place in longer:
            tail = whole[place][missing + 1 :]
            if tail:
                yield job([place], [tail], request.context + whole[place][: missing + 1], part=1)


def _batched(places: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield as many places at once as a request may have candidates."""
    for start in range(0, len(places), _CANDIDATES_AT_MOST):
        yield places[start : start + _CANDIDATES_AT_MOST]


def _beginning_alike(continuations: Sequence[tuple[int, ...]], tokens: int) -> Iterable[list[int]]:
    """Return the places of the continuations of more than one token, those together that have their first ``tokens`` in common."""
    found: dict[Any, list[int]] = {}
    for place, continuation in enumerate(continuations):
        if len(continuation) > 1:
            found.setdefault(continuation[:tokens] if len(continuation) >= tokens else place, []).append(place)
    return found.values()


def joined(parts: Mapping[int, Score]) -> Score:
    """Return the score of a continuation from those of its parts."""
    first, rest = parts[0], parts.get(1)
    if rest is None:
        return first
    greedy = None if first.greedy is None or rest.greedy is None else first.greedy + rest.greedy
    return Score(first.logprobs + rest.logprobs, greedy)
