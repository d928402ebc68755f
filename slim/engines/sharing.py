"""What sequences have in common at their beginnings, so that it is computed once. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

# Below this many tokens a prefix of its own costs more than it saves.
_WORTH_TOKENS = 32
# A group may shrink its common prefix by this factor at most to take another member in.
_SHRINKS_TO = 0.5


@dataclass(frozen=True)
class Group:
    """Sequences that begin alike.

    Attributes:
        prefix: tokens that all members have in common; 0 for the group of those that share nothing worth while.
        members: places of the sequences, the longest first.
    """

    prefix: int
    members: tuple[int, ...]


def common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return the number of tokens with which both begin."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        # Comparing slices is much faster than comparing tokens one by one.
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def prefix_groups(sequences: Sequence[tuple[int, ...]]) -> list[Group]:
    """Part sequences into groups by common beginnings.

    A prefix leaves at least one token to each member, since its successor is what is asked for.

    Args:
        sequences: each at least one token.

    Returns:
        Groups that hold each place once, those with the longest members first.
    """
    order = sorted(range(len(sequences)), key=lambda place: sequences[place])
    groups: list[Group] = []
    alone: list[int] = []

    def close(prefix: int, members: list[int]) -> None:
        if len(members) > 1:
            groups.append(Group(prefix, tuple(sorted(members, key=lambda place: (-len(sequences[place]), place)))))
        else:
            alone.extend(members)

    members: list[int] = []
    prefix = 0
    for place in order:
        room = len(sequences[place]) - 1
        shared = min(prefix, room, common_prefix(sequences[members[0]], sequences[place])) if members else 0
        if members and shared >= max(_WORTH_TOKENS, 0 if len(members) == 1 else _SHRINKS_TO * prefix):
            members.append(place)
            prefix = shared
        else:
            close(prefix, members)
            members, prefix = [place], room
    close(prefix, members)
    if alone:
        groups.append(Group(0, tuple(sorted(alone, key=lambda place: (-len(sequences[place]), place)))))
    return sorted(groups, key=lambda group: -len(sequences[group.members[0]]))
