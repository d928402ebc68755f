"""The logits along a prompt, taken from vLLM's model while it computes the prompt's log-probabilities.

vLLM's front end hands out log-probabilities as Python lists, which for a whole vocabulary at each of a thousand tokens takes
minutes and gigabytes. The engine runs in this process, so what ``compute_logits`` returns can be kept as it is; the
log-probabilities that vLLM gives for the prompt's own tokens tell which rows belong where, and that they are right.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slim.engines.vllm_requests import Found, logprob_params
from slim.errors import Reason, StageError

_TOLERANCE_NATS = 1e-3


def params(last: int) -> Any:
    """Return the sampling parameters for a prompt that ``last`` follows."""
    return logprob_params(in_prompt=0, candidates=(last,), read_cache=False)


@contextmanager
def kept(model: Any) -> Iterator[list[torch.Tensor]]:
    """Within the block, whatever the model's ``compute_logits`` returns is put into the list, as float32 on the CPU."""
    taken: list[torch.Tensor] = []
    compute = model.compute_logits

    def compute_and_keep(*arguments: Any, **options: Any) -> Any:
        logits = compute(*arguments, **options)
        if logits is not None:
            taken.append(logits.float().cpu())
        return logits

    model.compute_logits = compute_and_keep
    try:
        yield taken
    finally:
        del model.compute_logits


def rows(taken: Sequence[torch.Tensor], tokens: Sequence[int], answer: Found) -> npt.NDArray[np.float32]:
    """Return the rows along ``tokens`` in order.

    Args:
        taken: from `kept`: the prompt in one or more chunks, and for each chunk the row after its last token.
        tokens: the prompt and the token that follows it.
        answer: vLLM's, for the prompt.

    Raises:
        StageError: the rows are not those of the log-probabilities that vLLM gives.
    """
    expected = [values[0] for _, values in answer.rows()]
    candidates, values = answer.last()
    expected.append(values[candidates.index(tokens[-1])])
    found: list[torch.Tensor] = []
    last: torch.Tensor | None = None
    place = 0
    for block in taken:
        # Some versions compute the row after the last token of a chunk along with the others, some in a call of its own.
        end = min(place + len(block), len(expected))
        if place < end and _fits(block[: end - place], tokens[1 + place : 1 + end], expected[place:end]):
            found.append(block[: end - place])
            place = end
        elif len(block) == 1 and _fits(block, tokens[-1:], expected[-1:]):
            last = block
    if last is not None and place == len(expected) - 1:
        found.append(last)
        place += 1
    if place != len(expected):
        raise StageError(Reason.UNSUPPORTED_SCHEME, "vLLM's logits are not where this program looks for them in this version")
    logits: npt.NDArray[np.float32] = torch.cat(found).numpy()
    return logits


def _fits(block: torch.Tensor, tokens: Sequence[int], expected: Sequence[float]) -> bool:
    own = block.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1) - block.logsumexp(-1)
    return bool((own - torch.tensor(expected)).abs().max() < _TOLERANCE_NATS)
