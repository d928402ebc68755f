"""The fake's clock to the last bit, and that its probabilities are those of a distribution."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.engines import EngineSpec, GenerationRequest, ScoreRequest, open_engine
from slim.engines.fake import FakeEngine, VirtualClock
from slim.errors import ConfigError, Reason, StageError

# Powers of two, so that sums are exact.
TIMES = {"prefill_s_per_token": 2**-10, "decode_step_s": 2**-6, "extra_sequence_s": 2**-8}
MakeFake = Callable[..., FakeEngine]


def fake(clock: VirtualClock | None = None, **options: Any) -> FakeEngine:
    return FakeEngine(EngineSpec("fake", Path("nowhere"), "bfloat16", {"eos": None, **TIMES, **options}), clock)


def test_one_request_takes_prefill_and_decode_steps() -> None:
    clock = VirtualClock(100.0)
    answer = fake(clock).generate([GenerationRequest((1,) * 32, 5)], 1)[0]
    assert answer.submitted_s == 100.0
    assert answer.ttft_s == 32 * 2**-10
    assert answer.tpot_s == 2**-6
    assert answer.itl_s == (2**-6,) * 4
    assert clock.now() == 100.0 + answer.e2e_s


def test_a_step_takes_longer_with_more_sequences() -> None:
    prompts = [(i, *[9] * 15) for i in range(4)]
    answers = fake().generate([GenerationRequest(p, 3) for p in prompts], 4)
    assert {a.ttft_s for a in answers} == {4 * 16 * 2**-10}
    assert {a.tpot_s for a in answers} == {2**-6 + 3 * 2**-8}


def test_prefill_of_a_newcomer_delays_the_others() -> None:
    long, _, late = fake().generate(
        [GenerationRequest((1,) * 8, 6), GenerationRequest((2,) * 8, 2), GenerationRequest((3,) * 8, 2)], 2
    )
    both = 2**-6 + 2**-8
    # The second ends with its second token; the third's prefill then shares a step with the first's decoding.
    assert late.submitted_s == long.token_times_s[1]
    assert long.itl_s == (both, 8 * 2**-10 + 2**-6, both, 2**-6, 2**-6)
    assert late.ttft_s == 8 * 2**-10 + 2**-6


def test_the_prefix_cache_saves_its_part_of_the_prefill() -> None:
    engine = fake()
    engine.generate([GenerationRequest((1, 2, 3, 4), 1)], 1)
    answer = engine.generate([GenerationRequest((1, 2, 3, 9, 9), 1)], 1)[0]
    assert answer.cached_tokens == 3
    assert answer.ttft_s == 2 * 2**-10
    # The last token is always computed.
    assert engine.generate([GenerationRequest((1, 2, 3, 4), 1)], 1)[0].cached_tokens == 3


def test_out_of_memory_leaves_the_engine_usable() -> None:
    engine = fake(out_of_memory_beyond=3)
    requests = [GenerationRequest((i,), 2) for i in range(5)]
    with pytest.raises(StageError) as caught:
        engine.generate(requests, 4)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert len(engine.generate(requests, 3)) == 5


def test_a_crash_comes_at_its_step() -> None:
    engine = fake(crash_after_steps=2)
    with pytest.raises(StageError) as caught:
        engine.generate([GenerationRequest((1,), 3)], 1)
    assert caught.value.reason is Reason.ENGINE_CRASH
    assert engine.clock.now() == 2**-10 + 2**-6


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown key 'speed'; allowed: vocab_size"):
        fake(speed=1)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'tgi'; allowed: vllm, transformers"):
        open_engine(EngineSpec("tgi", Path("nowhere"), "bfloat16", {}))


@given(st.lists(st.integers(0, 63), min_size=1, max_size=8), st.integers(1, 64))
def test_the_most_likely_token_leads_a_distribution(tokens: list[int], vocab_size: int) -> None:
    engine = fake(vocab_size=vocab_size)
    context = tuple(token % vocab_size for token in tokens)
    (scores,) = engine.score([ScoreRequest(context, tuple((token,) for token in range(vocab_size)))], 1)
    assert math.fsum(math.exp(s.logprobs[0]) for s in scores) == pytest.approx(1)
    best = max(range(vocab_size), key=lambda token: scores[token].logprobs[0])
    assert [s.greedy[0] for s in scores] == [token == best for token in range(vocab_size)]
