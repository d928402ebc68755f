"""Cores are divided so that no two GPUs' workers share one, while there are enough."""

from hypothesis import given
from hypothesis import strategies as st

from slim.cluster import cores

NOWHERE: frozenset[int] = frozenset()


@given(st.integers(1, 64), st.integers(1, 8), st.booleans(), st.integers(1, 128))
def test_shares_are_apart_alike_and_whole_cores(physical: int, gpus: int, threads: bool, limit: int) -> None:
    # Numbered as kernels do: the second thread of each core after all first ones.
    host = [frozenset({n, n + physical} if threads else {n}) for n in range(physical)]
    found = cores.shares(host, [NOWHERE] * gpus, limit)
    assert len(found) == gpus
    assert len({len(share) for share in found}) == 1
    assert all(found)
    if physical >= gpus:
        for number, share in enumerate(found):
            touched = {core for core in host if core & share}
            assert not any(core & other for core in touched for other in found[number + 1 :])
    if limit >= gpus * (2 if threads else 1) and physical >= gpus:
        assert sum(map(len, found)) <= limit


def test_a_gpu_gets_cores_of_its_own_side() -> None:
    host = [frozenset({n}) for n in range(8)]
    left, right = frozenset(range(4)), frozenset(range(4, 8))
    assert cores.shares(host, [left, left, right, right]) == ({0, 1}, {2, 3}, {4, 5}, {6, 7})
    assert cores.shares(host, [right, left, right, left]) == ({4, 5}, {0, 1}, {6, 7}, {2, 3})


def test_a_side_without_cores_that_may_be_used_takes_any() -> None:
    host = [frozenset({n}) for n in range(4)]
    assert cores.shares(host, [frozenset({100}), frozenset({200})]) == ({0, 1}, {2, 3})


def test_fewer_cores_than_gpus_are_shared() -> None:
    assert cores.shares([frozenset({0}), frozenset({1})], [NOWHERE] * 4, 2) == ({0}, {1}, {0}, {1})


def test_this_hosts_cores_are_those_that_may_be_used() -> None:
    import os

    shares = cores.of_this_host(1)
    assert frozenset().union(*shares) <= os.sched_getaffinity(0)
