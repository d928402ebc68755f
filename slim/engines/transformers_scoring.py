"""Log-probabilities from a transformers model, what requests have in common computed once.

Three levels, each of which leaves its keys and values to the next: what a group of contexts begins with (such as the
examples of a task), the rest of each context, and the continuations of a context. Continuations of one token need only
the first two; a context with a single continuation is run through with it.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from slim.engines.base import Score, ScoreRequest
from slim.engines.sharing import prefix_groups

_SHARING_ATTENTION = ("sdpa", "eager")
# Without cuDNN's, which PyTorch may choose as well: it prepares a plan for each shape that it has not seen, and here nearly
# every batch has a shape of its own. On an H100 a new shape took a tenth of a second; that these plans are why is not shown.
_ATTENTION_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class _Row:
    """A sequence to run through the model.

    Attributes:
        owner: place of its request.
        places: which of the request's continuations it is for.
        tokens: the context, and the continuation without its last token where it is for one alone.
        first: place in ``tokens`` of the context's last token.
    """

    owner: int
    places: tuple[int, ...]
    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class _Places:
    """Figures at some places of a sequence.

    Attributes:
        logits: shape (places, vocabulary), float32.
        normalizer: shape (places,), log of the sum of exponentials.
        best: shape (places,), the token with the highest logit; of several the first, as greedy decoding takes it.
    """

    logits: torch.Tensor
    normalizer: torch.Tensor
    best: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> "_Places":
        values = logits.float()
        return cls(values, values.logsumexp(-1), values.argmax(-1))

    def of_tokens(self, tokens: Sequence[int], place: int | None = None) -> tuple[list[float], list[bool]]:
        """Log-probability and greediness of tokens: one a place, or all of them at one place."""
        ids = torch.tensor(tokens, device=self.logits.device)
        if place is None:
            chosen, normalizer, best = self.logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1), self.normalizer, self.best
        else:
            chosen, normalizer, best = self.logits[place, ids], self.normalizer[place], self.best[place]
        logprobs, greedy = torch.stack([(chosen - normalizer).clamp(max=0), (ids == best).float()]).tolist()
        return logprobs, [flag == 1 for flag in greedy]


class Scorer:
    """Scores requests with one model.

    Args:
        model: causal language model.
        device: where it is.
        keeps_logits: whether its ``forward`` takes ``logits_to_keep``.
    """

    def __init__(self, model: Any, device: str, keeps_logits: bool) -> None:
        self.model = model
        self.device = device
        self._keeps_logits = keeps_logits
        self._shared_at_most = _shared_at_most(model)

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[tuple[Score, ...]]:
        """Return the scores; requests were checked."""
        call = _Call(self, requests, batch_size)
        shares = [len(request.context) + request.longest <= self._shared_at_most for request in requests]
        rows = [row for owner, request in enumerate(requests) for row in _rows(owner, request, shares[owner])]
        sharing = [row for row in rows if shares[row.owner]]
        for group in prefix_groups([row.tokens[: row.first + 1] for row in sharing]):
            prefix = sharing[group.members[0]].tokens[: group.prefix]
            before = self.new_cache() if prefix else None
            if prefix:
                self.forward([prefix], [[0]], before)
            call.run([sharing[place] for place in group.members], before, len(prefix))
        call.run([row for row in rows if not shares[row.owner]])
        return [tuple(call.answers[i, place] for place in range(len(r.continuations))) for i, r in enumerate(requests)]

    def logits(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """Return the logits along a sequence; shape (tokens - 1, vocabulary), float32, on the CPU."""
        (logits,) = self.forward([tokens[:-1]], [range(len(tokens) - 1)])
        return logits.float().cpu()

    def new_cache(self) -> Any:
        """Return an empty cache for keys and values."""
        return DynamicCache(config=self.model.config)

    def forward(
        self,
        inputs: Sequence[tuple[int, ...]],
        wanted: Sequence[Sequence[int]],
        cache: Any = None,
        positions: Sequence[int] | None = None,
        mask: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[torch.Tensor]:
        """Run the model over some rows.

        Padding stands right of the tokens, where a causal model does not see it, so no attention mask is needed for it.

        Args:
            inputs: tokens of each row.
            wanted: places in each row whose logits are wanted, ascending.
            cache: what came before, and where this pass leaves its keys and values; None keeps nothing.
            positions: of each row's first token; None is after what the cache holds.
            mask: which tokens of the cache and of ``inputs`` are seen; None is all.

        Returns:
            For each row the logits, shape (wanted, vocabulary).
        """
        width = max(map(len, inputs))
        ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in inputs], device=self.device)
        kept = sorted(set().union(*wanted)) if self._keeps_logits else list(range(width))
        options: dict[str, Any] = {"logits_to_keep": torch.tensor(kept, device=self.device)} if self._keeps_logits else {}
        if positions is not None:
            options["position_ids"] = torch.tensor([[p + i for i in range(width)] for p in positions], device=self.device)
        if mask is not None:
            options["attention_mask"] = torch.tensor(mask, device=self.device)
        with torch.inference_mode(), sdpa_kernel(_ATTENTION_KERNELS):
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None, **options).logits
        column = {place: i for i, place in enumerate(kept)}
        return (logits[row, [column[place] for place in places]] for row, places in enumerate(wanted))


class _Call:
    """One call of `Scorer.score`.

    Attributes:
        answers: by request and continuation.
    """

    def __init__(self, scorer: Scorer, requests: Sequence[ScoreRequest], batch_size: int) -> None:
        self._scorer = scorer
        self._requests = requests
        self._batch_size = batch_size
        self.answers: dict[tuple[int, int], Score] = {}

    def run(self, rows: list[_Row], before: Any = None, shared: int = 0) -> None:
        """Score rows that begin with the same ``shared`` tokens, whose keys and values are in the cache ``before``."""
        rows = sorted(rows, key=lambda row: -len(row.tokens))
        for start in range(0, len(rows), self._batch_size):
            self._run_batch(rows[start : start + self._batch_size], before, shared)

    def _run_batch(self, batch: list[_Row], before: Any, shared: int) -> None:
        goes_on = any(len(row.places) > 1 and self._requests[row.owner].longest > 1 for row in batch)
        cache = self._scorer.new_cache() if before is None and goes_on else None
        if before is not None:
            cache = _shallow(before)
            cache.batch_repeat_interleave(len(batch))
        wanted = [range(row.first - shared, len(row.tokens) - shared) for row in batch]
        heads: list[_Head] = []
        for index, logits in enumerate(self._scorer.forward([row.tokens[shared:] for row in batch], wanted, cache)):
            heads += self._score_row(batch[index], index, _Places.of(logits))
        heads.sort(key=lambda head: -len(head.continuation))
        for start in range(0, len(heads), self._batch_size):
            self._score_tails(heads[start : start + self._batch_size], batch, cache, shared)

    def _score_row(self, row: _Row, index: int, found: _Places) -> Iterator["_Head"]:
        """Take the answers that the row gives; yield the continuations of which only the first token is scored yet."""
        continuations = self._requests[row.owner].continuations
        if len(row.places) == 1:
            self._answer(row.owner, row.places[0], *found.of_tokens(continuations[row.places[0]]))
            return
        firsts = found.of_tokens([continuation[0] for continuation in continuations], 0)
        for place, logprob, greedy in zip(row.places, *firsts, strict=True):
            if len(continuations[place]) == 1:
                self._answer(row.owner, place, [logprob], [greedy])
            else:
                yield _Head(index, row.owner, place, continuations[place], logprob, greedy)

    def _score_tails(self, heads: list["_Head"], batch: list[_Row], cache: Any, shared: int) -> None:
        """Score continuations from their second token on, after contexts that are in the cache, padded to one length."""
        selected = _shallow(cache)
        selected.batch_select_indices(torch.tensor([head.row for head in heads], device=self._scorer.device))
        width = max(len(row.tokens) for row in batch)
        lengths = [len(batch[head.row].tokens) for head in heads]
        inputs = [head.continuation[:-1] for head in heads]
        tail = max(map(len, inputs))
        mask = [[1] * length + [0] * (width - length) + [1] * tail for length in lengths]
        rows = self._scorer.forward(inputs, [range(len(tokens)) for tokens in inputs], selected, lengths, mask)
        for head, logits in zip(heads, rows, strict=True):
            logprobs, greedy = _Places.of(logits).of_tokens(head.continuation[1:])
            self._answer(head.owner, head.place, [head.logprob, *logprobs], [head.greedy, *greedy])

    def _answer(self, owner: int, place: int, logprobs: Sequence[float], greedy: Sequence[bool]) -> None:
        self.answers[owner, place] = Score(tuple(logprobs), tuple(greedy))


@dataclass(frozen=True)
class _Head:
    """A continuation whose first token is scored.

    Attributes:
        row: place of its context in the batch.
        owner, place: of the request, and in it.
        continuation: tokens.
        logprob, greedy: of the first.
    """

    row: int
    owner: int
    place: int
    continuation: tuple[int, ...]
    logprob: float
    greedy: bool


def _rows(owner: int, request: ScoreRequest, shares: bool) -> Iterator[_Row]:
    """The sequences that score a request: its context, or each continuation with it."""
    last = len(request.context) - 1
    if len(request.continuations) > 1 and (shares or request.longest == 1):
        yield _Row(owner, tuple(range(len(request.continuations))), request.context, last)
    else:
        for place, continuation in enumerate(request.continuations):
            yield _Row(owner, (place,), request.context + continuation[:-1], last)


def _shallow(cache: Any) -> Any:
    """A cache that can be changed without changing the other: its layers replace their tensors, they do not write in them."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other


def _shared_at_most(model: Any) -> float:
    """Tokens of a sequence up to which its beginning may be computed apart.

    Layers with a sliding window forget what is beyond it, and recurrent ones take padding in; flash attention does not
    take the mask that is needed.
    """
    if model.config._attn_implementation not in _SHARING_ATTENTION:
        return 0
    limit = float("inf")
    for layer in DynamicCache(config=model.config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            limit = min(limit, layer.sliding_window)
        elif type(layer) is not DynamicLayer:
            return 0
    return limit
