"""Grouping by common beginnings."""

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.engines.sharing import common_prefix, prefix_groups

SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=90).map(tuple), max_size=12)
ALIKE = st.lists(
    st.tuples(
        st.sampled_from([(1,) * 40, (2,) * 40 + (1,) * 30, (2,) * 40, ()]), st.lists(st.integers(0, 2), min_size=1, max_size=6)
    ),
    max_size=12,
).map(lambda pairs: [head + tuple(tail) for head, tail in pairs])


@given(st.lists(st.integers(0, 1), max_size=12).map(tuple), st.lists(st.integers(0, 1), max_size=12).map(tuple))
def test_common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    expected = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    assert common_prefix(one, other) == expected


@given(SEQUENCES | ALIKE)
def test_groups_hold_everything_once_and_share_what_they_say(sequences: list[tuple[int, ...]]) -> None:
    groups = prefix_groups(sequences)
    assert sorted(place for group in groups for place in group.members) == list(range(len(sequences)))
    for group in groups:
        members = [sequences[place] for place in group.members]
        assert all(member[: group.prefix] == members[0][: group.prefix] and len(member) > group.prefix for member in members)
        assert [len(m) for m in members] == sorted((len(m) for m in members), reverse=True)
        assert group.prefix == 0 or (group.prefix >= 32 and len(members) > 1)
    assert sum(group.prefix == 0 for group in groups) <= 1
    longest = [len(sequences[group.members[0]]) for group in groups]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("extra", [0, 1])
def test_tasks_with_examples_of_their_own_make_groups_of_their_own(extra: int) -> None:
    tasks = [tuple(range(1000 * task, 1000 * task + 300)) for task in range(3)]
    questions = [(7, place, place + extra, 5) for place in range(10)]
    sequences = [examples + question for question in questions for examples in tasks]
    groups = prefix_groups(sequences)
    assert sorted((group.prefix, len(group.members)) for group in groups) == [(301, 10)] * 3
