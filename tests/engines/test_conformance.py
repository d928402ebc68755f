"""What `slim.engines.base.Engine` promises, held against every engine.

The engines are opened once for this module and stay in this process; vLLM and transformers get along there, two vLLM
engines at a time do not. Kernels round differently for other batch shapes, so tokens of the real engines are compared
exactly only between runs of the same shape.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from slim.engines import Engine, EngineSpec, GenerationRequest, Score, ScoreRequest, open_engine
from slim.engines.base import OpenLoopEngine

CONTEXT = 256
EOS = 2
OPTIONS: dict[str, dict[str, Any]] = {
    "fake": {"vocab_size": 64, "max_model_len": CONTEXT, "eos": EOS, "max_concurrency": 8},
    "transformers": {"max_model_len": CONTEXT},
    "vllm": {"max_model_len": CONTEXT, "max_num_seqs": 8, "cpu_kv_cache_gib": 0.25, "gpu_memory_utilization": 0.3},
}
REAL = [pytest.param(name, marks=pytest.mark.slow) for name in ("transformers", "vllm")]
ALL = ["fake", *REAL]
CONTINUOUS = ["fake", REAL[1]]
every_engine = pytest.mark.parametrize("name", ALL)

Opener = Callable[[str], Engine]


@pytest.fixture(scope="module")
def cache() -> Iterator[dict[str, Engine]]:
    engines: dict[str, Engine] = {}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def opened(cache: dict[str, Engine], tiny_model: Path) -> Opener:
    def open_once(name: str) -> Engine:
        if name not in cache:
            cache[name] = open_engine(EngineSpec(name, tiny_model, "bfloat16", OPTIONS[name]))
        return cache[name]

    return open_once


@pytest.fixture
def engine(name: str, opened: Opener) -> Engine:
    return opened(name)


def prompts(engine: Engine, count: int, seed: int = 0, length: int | None = None) -> list[tuple[int, ...]]:
    source = random.Random(seed)
    lengths = [length or source.randint(3, 12) for _ in range(count)]
    return [tuple(source.randrange(EOS + 1, engine.info.vocab_size) for _ in range(n)) for n in lengths]


def score(engine: Engine, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], batch_size: int) -> list[Score]:
    """Score each continuation in a request of its own."""
    answers = engine.score([ScoreRequest(context, (continuation,)) for context, continuation in pairs], batch_size)
    return [only for (only,) in answers]


def greedy(engine: Engine, prompt: tuple[int, ...], max_tokens: int = 12) -> tuple[int, ...]:
    return engine.generate([GenerationRequest(prompt, max_tokens, ignore_eos=True)], 1)[0].tokens


@every_engine
def test_info_describes_what_was_opened(engine: Engine, name: str) -> None:
    info = engine.info
    assert (info.engine, info.max_model_len) == (name, CONTEXT)
    assert info.version != "unknown"
    assert info.max_concurrency == (None if name == "transformers" else 8)
    assert (info.kv_capacity_tokens is None) == (name == "transformers")


@pytest.mark.parametrize("name", REAL)
def test_sizes_are_those_of_the_model(engine: Engine) -> None:
    # 1,312,000 parameters of 2 bytes, tied embeddings once; vLLM adds a few scalars of its attention layers.
    assert 2_624_000 <= engine.info.weights_bytes <= 2_624_200
    # Keys and values, 2 layers, 2 heads of 64, 2 bytes.
    assert engine.info.kv_bytes_per_token == 2 * 2 * 2 * 64 * 2


@every_engine
def test_nothing_gives_nothing(engine: Engine) -> None:
    assert engine.generate([], 1) == []
    assert engine.score([], 1) == []


@every_engine
def test_answers_come_in_the_order_of_requests(engine: Engine) -> None:
    # Lengths fall, so that later requests end first.
    requests = [GenerationRequest(p, 12 - i, ignore_eos=True) for i, p in enumerate(prompts(engine, 8))]
    answers = engine.generate(requests, 3)
    assert [len(answer.tokens) for answer in answers] == [request.max_tokens for request in requests]
    alone = [greedy(engine, request.prompt, 1)[0] for request in requests]
    assert sum(answer.tokens[0] == first for answer, first in zip(answers, alone, strict=True)) >= 7


@every_engine
def test_greedy_generation_repeats_itself(engine: Engine) -> None:
    requests = [GenerationRequest(p, 10, read_prefix_cache=False) for p in prompts(engine, 3)]
    first, second = engine.generate(requests, 3), engine.generate(requests, 3)
    assert [a.tokens for a in first] == [a.tokens for a in second]
    assert [a.text for a in first] == [a.text for a in second]


@every_engine
def test_concurrency_changes_no_length(engine: Engine, name: str) -> None:
    requests = [GenerationRequest(p, 5 + i, ignore_eos=True) for i, p in enumerate(prompts(engine, 6))]
    alone, together = engine.generate(requests, 1), engine.generate(requests, 6)
    assert [len(a.tokens) for a in alone] == [len(a.tokens) for a in together] == [5, 6, 7, 8, 9, 10]
    assert {a.finish_reason for a in together} == {"length"}
    if name == "fake":
        assert [a.tokens for a in alone] == [a.tokens for a in together]


@every_engine
def test_end_of_sequence_ends_unless_ignored(engine: Engine) -> None:
    for prompt in prompts(engine, 64, seed=1):
        whole = greedy(engine, prompt, 32)
        if EOS in whole[:-1]:
            break
    else:
        pytest.fail("no prompt leads to the end of sequence")
    assert len(whole) == 32
    answer = engine.generate([GenerationRequest(prompt, 32)], 1)[0]
    assert answer.tokens == whole[: whole.index(EOS) + 1]
    assert answer.finish_reason == "stop"
    assert "<|im_end|>" not in answer.text


@every_engine
def test_a_stop_text_ends_and_is_cut_off(engine: Engine) -> None:
    for prompt in prompts(engine, 64, seed=2):
        whole = engine.generate([GenerationRequest(prompt, 16, ignore_eos=True)], 1)[0]
        middle = len(whole.text) // 2
        stop = whole.text[middle : middle + 3]
        if len(stop) == 3 and stop.isascii() and whole.text.find(stop) == middle:
            break
    else:
        pytest.fail("no generation with a usable stop text")
    request = GenerationRequest(prompt, 16, ignore_eos=True, stop=("never in there", stop, whole.text[middle + 1 : middle + 5]))
    answer = engine.generate([request], 1)[0]
    assert answer.text == whole.text[:middle]
    assert answer.finish_reason == "stop"
    assert len(answer.tokens) < 16
    assert answer.tokens == whole.tokens[: len(answer.tokens)]


@every_engine
@pytest.mark.parametrize("concurrency", [1, 3])
def test_times_are_ordered(engine: Engine, concurrency: int) -> None:
    answers = engine.generate([GenerationRequest(p, 6, ignore_eos=True) for p in prompts(engine, 5)], concurrency)
    for answer in answers:
        times = (answer.submitted_s, *answer.token_times_s)
        assert len(times) == 1 + len(answer.tokens)
        assert all(earlier < later for earlier, later in itertools.pairwise(times))
    assert [a.submitted_s for a in answers] == sorted(a.submitted_s for a in answers)
    if concurrency == 1:
        ends = [a.token_times_s[-1] for a in answers]
        assert all(end <= nxt.submitted_s for end, nxt in zip(ends, answers[1:], strict=False))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_next_request_is_handed_over_when_one_ends(engine: Engine) -> None:
    long, short, third = (GenerationRequest(p, n, ignore_eos=True) for p, n in zip(prompts(engine, 3), (24, 2, 2), strict=True))
    answers = engine.generate([long, short, third], 2)
    assert answers[1].token_times_s[-1] <= answers[2].submitted_s < answers[0].token_times_s[-1]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_requests_arrive_whether_or_not_earlier_ones_are_done(engine: Engine) -> None:
    assert isinstance(engine, OpenLoopEngine)
    long, *others = prompts(engine, 11, length=8)
    requests = [GenerationRequest(long, 200, ignore_eos=True), *(GenerationRequest(p, 2, ignore_eos=True) for p in others)]
    # One idle wait at first and one at the end; the engine takes 8 at once, so two that arrive together with others wait in its queue.
    arrivals = [0.25, *[0.26] * 9, 20.0 if engine.info.engine == "fake" else 4.0]
    answers = engine.serve(requests, arrivals)
    start = answers[0].submitted_s - arrivals[0]
    assert [a.submitted_s - start for a in answers] == pytest.approx(arrivals, abs=1e-6)
    assert [len(a.tokens) for a in answers] == [200] + [2] * 10
    assert all(a.ttft_s > 0 for a in answers)
    assert all(a.token_times_s[-1] < answers[0].token_times_s[-1] for a in answers[1:10])
    assert answers[10].token_times_s[0] > answers[9].token_times_s[-1]


@pytest.mark.slow
def test_an_engine_without_continuous_batching_takes_no_arrivals(opened: Opener) -> None:
    assert not isinstance(opened("transformers"), OpenLoopEngine)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize(
    ("arrivals", "message"), [([0.0], "1 arrivals for 2"), ([1.0, 0.5], "decrease"), ([-1.0, 0.0], "negative")]
)
def test_bad_arrivals_are_refused(engine: Engine, arrivals: list[float], message: str) -> None:
    assert isinstance(engine, OpenLoopEngine)
    with pytest.raises(ValueError, match=message):
        engine.serve([GenerationRequest((5,), 1)] * 2, arrivals)


@pytest.mark.slow
def test_static_batches_are_handed_over_together(opened: Opener) -> None:
    engine = opened("transformers")
    requests = [GenerationRequest(p, n, ignore_eos=True) for p, n in zip(prompts(engine, 4), (8, 2, 2, 2), strict=True)]
    answers = engine.generate(requests, 2)
    assert answers[0].submitted_s == answers[1].submitted_s
    assert answers[2].submitted_s == answers[3].submitted_s >= answers[0].token_times_s[-1]
    assert answers[1].token_times_s[-1] < answers[0].token_times_s[-1]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_prefix_cache_is_read_only_when_asked(engine: Engine) -> None:
    request = GenerationRequest(prompts(engine, 1, seed=3, length=200)[0], 2, ignore_eos=True)
    engine.generate([request], 1)
    assert engine.generate([replace(request, read_prefix_cache=False)], 1)[0].cached_tokens == 0
    assert engine.generate([request], 1)[0].cached_tokens > 0


@every_engine
def test_scores_follow_the_requests(engine: Engine) -> None:
    texts = prompts(engine, 7, seed=4)
    requests = [(p[:1], p[1:]) for p in texts]
    scores = score(engine, requests, 3)
    assert [len(s.logprobs) for s in scores] == [len(s.greedy) for s in scores] == [len(p) - 1 for p in texts]
    assert all(value <= 0 for s in scores for value in s.logprobs)
    alone = [score(engine, [request], 1)[0] for request in requests]
    for one, other in zip(scores, alone, strict=True):
        assert sum(one.logprobs) == pytest.approx(sum(other.logprobs), abs=0.2, rel=0.02)


@every_engine
def test_probabilities_of_all_next_tokens_sum_to_one(engine: Engine) -> None:
    context = prompts(engine, 1, seed=5)[0]
    (scores,) = engine.score([ScoreRequest(context, tuple((token,) for token in range(engine.info.vocab_size)))], 64)
    assert sum(math.exp(s.logprobs[0]) for s in scores) == pytest.approx(1, abs=0.02)
    best = max(range(len(scores)), key=lambda token: scores[token].logprobs[0])
    assert scores[best].greedy == (True,)
    # One token, but for the rounding of batches.
    assert sum(s.greedy[0] for s in scores) == 1 or engine.info.engine == "vllm"
    assert greedy(engine, context, 1)[0] in [token for token, s in enumerate(scores) if s.greedy[0]]


@every_engine
def test_scores_obey_the_chain_rule(engine: Engine) -> None:
    for text in prompts(engine, 4, seed=6, length=9):
        context, first, second = text[:7], text[7:8], text[8:]
        together, one, two = score(engine, [(context, first + second), (context, first), (context + first, second)], 3)
        assert together.logprobs == pytest.approx((one.logprobs[0], two.logprobs[0]), abs=0.2)


@every_engine
def test_what_was_generated_greedily_scores_as_greedy(engine: Engine, name: str) -> None:
    requests = []
    for prompt in prompts(engine, 8, seed=7):
        tokens = greedy(engine, prompt)
        requests += [(prompt, tokens), (prompt, ((tokens[0] + 1) % engine.info.vocab_size, *tokens[1:]))]
    scores = score(engine, requests, 4)
    same = [flag for one in scores[::2] for flag in one.greedy]
    # Near ties fall either way where decoding and prefill round differently; the fake does not round.
    assert sum(same) >= (1.0 if name == "fake" else 0.9) * len(same)
    assert not any(one.greedy[0] for one in scores[1::2])


@every_engine
def test_not_asking_what_is_most_likely_changes_no_log_probability(engine: Engine) -> None:
    contexts = prompts(engine, 6, seed=17)
    continuations = ((7,), (8,), *prompts(engine, 3, seed=18))
    asking = engine.score([ScoreRequest(context, continuations) for context in contexts], 4)
    not_asking = engine.score([ScoreRequest(context, continuations, greedy=False) for context in contexts], 4)
    for one, other in zip(itertools.chain(*asking), itertools.chain(*not_asking), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=0.05)
        assert len(one.greedy) == len(one.logprobs)
        assert other.greedy is None or len(other.greedy) == len(other.logprobs)


@every_engine
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_what_requests_share_changes_no_score(engine: Engine, batch_size: int) -> None:
    # A long beginning that most have in common, contexts with several continuations of one and of more tokens, some of which
    # begin alike for longer than a block of vLLM's cache, and one request that shares nothing.
    head = prompts(engine, 1, seed=11, length=100)[0]
    contexts = [head + tail for tail in prompts(engine, 5, seed=12)] + [head[:60], prompts(engine, 1, seed=13, length=9)[0]]
    tails = prompts(engine, 3, seed=14, length=40)
    continuations = ((7,), (8,), tails[0], tails[0][:36] + tails[1], tails[2][:3], tails[1][:1])
    requests = [ScoreRequest(context, continuations[: 2 + place]) for place, context in enumerate(contexts)]
    requests.append(ScoreRequest(contexts[2], ((9,), (7,))))
    for _ in range(2):  # the second time vLLM finds everything in its cache
        found = engine.score(requests, batch_size)
        for request, answers in zip(requests, found, strict=True):
            alone = score(engine, [(request.context, continuation) for continuation in request.continuations], 1)
            for one, other in zip(answers, alone, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=0.25)
                assert sum(one.logprobs) == pytest.approx(sum(other.logprobs), abs=0.3, rel=0.01)


@every_engine
@pytest.mark.parametrize("length", [2, 9, 150, CONTEXT])
def test_logits_are_those_of_the_scores(engine: Engine, length: int) -> None:
    tokens = prompts(engine, 1, seed=15, length=length)[0]
    for _ in range(2):
        logits = engine.logits(tokens)
        assert (logits.shape, logits.dtype) == ((length - 1, engine.info.vocab_size), np.float32)
        logprobs = log_softmax(logits.astype(np.float64), axis=-1)[np.arange(length - 1), tokens[1:]]
        (expected,) = score(engine, [(tokens[:1], tokens[1:])], 1)
        assert logprobs == pytest.approx(expected.logprobs, abs=0.2)


@every_engine
@pytest.mark.parametrize("tokens", [(), (5,), (5, 100_000), (5,) * (CONTEXT + 1)], ids=["none", "one", "unknown", "too-long"])
def test_logits_of_a_bad_sequence_are_refused(engine: Engine, tokens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the sequence"):
        engine.logits(tokens)


@every_engine
def test_token_times_are_left_out_where_they_are_not_wanted(engine: Engine) -> None:
    request = GenerationRequest(prompts(engine, 1)[0], 6, ignore_eos=True, stop=("never in there",))
    timed, untimed = engine.generate([request, replace(request, token_times=False)], 2)
    assert (timed.tokens, timed.text, timed.finish_reason) == (untimed.tokens, untimed.text, untimed.finish_reason)
    assert (len(timed.token_times_s), untimed.token_times_s) == (6, ())


@every_engine
def test_a_full_context_fits(engine: Engine) -> None:
    text = prompts(engine, 1, seed=8, length=CONTEXT)[0]
    many, one, short = score(engine, [(text[:1], text[1:]), (text[:-1], text[-1:]), (text[:1], text[1:-1])], 1)
    assert len(many.logprobs) == CONTEXT - 1
    assert many.logprobs[-1] == pytest.approx(one.logprobs[0], abs=0.2)
    assert many.logprobs[:-1] == pytest.approx(short.logprobs, abs=0.2)
    assert len(greedy(engine, text[: CONTEXT - 3], 3)) == 3


@every_engine
def test_a_single_token_is_enough_of_a_prompt(engine: Engine) -> None:
    assert len(greedy(engine, (5,), 4)) == 4
    assert len(score(engine, [((5,), (6,))], 1)[0].logprobs) == 1


BAD_GENERATIONS = {
    "prompt is empty": (GenerationRequest((), 1), 1),
    "token id 100000": (GenerationRequest((5, 100_000), 1), 1),
    "token id -1": (GenerationRequest((-1,), 1), 1),
    "beyond the context": (GenerationRequest((5,) * 200, 57), 1),
    "max_tokens must be": (GenerationRequest((5,), 0), 1),
    "empty stop text": (GenerationRequest((5,), 1, stop=("",)), 1),
    "concurrency must be": (GenerationRequest((5,), 1), 0),
}
BAD_SCORES = {
    "context is empty": (ScoreRequest((), ((5,),)), 1),
    "no continuations": (ScoreRequest((5,), ()), 1),
    "continuation is empty": (ScoreRequest((5,), ((5,), ())), 1),
    "token id 100000": (ScoreRequest((5,), ((5,), (100_000,))), 1),
    "beyond the context": (ScoreRequest((5,) * 200, ((5,), (5,) * 57)), 1),
    "batch_size must be": (ScoreRequest((5,), ((5,),)), 0),
}


@every_engine
@pytest.mark.parametrize("message", BAD_GENERATIONS)
def test_a_bad_generation_is_refused(engine: Engine, message: str) -> None:
    request, concurrency = BAD_GENERATIONS[message]
    with pytest.raises(ValueError, match=message):
        engine.generate([GenerationRequest((5,), 1), request], concurrency)


@every_engine
@pytest.mark.parametrize("message", BAD_SCORES)
def test_a_bad_score_is_refused(engine: Engine, message: str) -> None:
    request, batch_size = BAD_SCORES[message]
    with pytest.raises(ValueError, match=message):
        engine.score([ScoreRequest((5,), ((5,),)), request], batch_size)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_more_than_the_engine_takes_at_once_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="concurrency 9 is beyond"):
        engine.generate([GenerationRequest((5,), 1)], 9)


@pytest.mark.slow
def test_engines_agree_on_the_same_checkpoint(opened: Opener) -> None:
    engines = [opened("vllm"), opened("transformers")]
    requests = [(p[:2], p[2:]) for p in prompts(engines[0], 12, seed=9, length=20)]
    for one, other in zip(*(score(engine, requests, 4) for engine in engines), strict=True):
        assert sum(one.logprobs) == pytest.approx(sum(other.logprobs), rel=0.01)
    answers = [[greedy(engine, context, 8) for context, _ in requests] for engine in engines]
    assert sum(a[:2] == b[:2] for a, b in zip(*answers, strict=True)) >= 10


@every_engine
def test_closing_twice_and_opening_again(name: str, opened: Opener, cache: dict[str, Engine]) -> None:
    first = opened(name)
    prompt = prompts(first, 1, seed=10)[0]
    before = greedy(first, prompt)
    cache.pop(name).close()
    first.close()
    assert greedy(opened(name), prompt) == before
