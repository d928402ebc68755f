"""Requests in vLLM's words, and its answers in ours. Imported by `slim.engines.vllm` alone, which prepares the process."""

from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from slim.engines.base import GenerationRequest, Score, ScoreRequest


def generation_params(request: GenerationRequest) -> Any:
    """Return the sampling parameters of a greedy generation whose tokens come one by one."""
    return SamplingParams(
        temperature=0,
        max_tokens=request.max_tokens,
        ignore_eos=request.ignore_eos,
        stop=list(request.stop) or None,
        # The text is decoded at the end; only a stop text has to be looked for on the way.
        detokenize=bool(request.stop),
        skip_reading_prefix_cache=not request.read_prefix_cache,
        output_kind=RequestOutputKind.DELTA,
    )


def scoring_job(request: ScoreRequest, max_model_len: int) -> tuple[tuple[int, ...], Any]:
    """Return the prompt and the sampling parameters that score a request.

    vLLM scores a token either inside the prompt, which costs the prefix cache, or as a candidate for the one token
    that it always generates. A single-token continuation takes the second way; one that fills the context takes it for
    its last token, since the generated token needs a place too.
    """
    tokens = request.context + request.continuation
    single = len(request.continuation) == 1
    last_apart = single or len(tokens) >= max_model_len
    params = SamplingParams(
        temperature=0,
        max_tokens=1,
        detokenize=False,
        flat_logprobs=True,
        prompt_logprobs=None if single else 1,
        logprob_token_ids=[tokens[-1]] if last_apart else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    return (tokens[:-1] if last_apart else tokens), params


def score(request: ScoreRequest, output: Any) -> Score:
    """Return the score that stands in vLLM's tables of log-probabilities.

    Each row of them holds the token that was asked for and the most likely one (in the prompt the best of one, at the
    generated place the one that was generated). Ranks are not used: vLLM counts a tie against both tokens.
    """
    prompt, generated = output.prompt_logprobs, output.outputs[0].logprobs
    places = range(len(request.context), len(output.prompt_token_ids)) if prompt is not None else range(0)
    tables = [(prompt, place) for place in places]
    if generated is not None:
        tables.append((generated, 0))
    logprobs, greedy = [], []
    for (table, row), token in zip(tables, request.continuation, strict=True):
        entries = slice(table.start_indices[row], table.end_indices[row])
        values = table.logprobs[entries]
        own = values[table.token_ids[entries].index(token)]
        logprobs.append(own)
        greedy.append(own >= max(values))
    return Score(tuple(logprobs), tuple(greedy))
