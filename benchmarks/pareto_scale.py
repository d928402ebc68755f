"""How long front and ranks of many configurations take, and the whole analysis of a frame.

    python -m benchmarks.pareto_scale [--points 10000] [--objectives 4]

Points are drawn at random, once evenly in a cube (many ranks, a small front) and once on a sphere (all on the front: the worst
case for comparing everything with everything). The peer is Optuna's non-dominated sort, which its multi-objective samplers use,
over the same points in the same run; the ranks must be the same. Best of three repetitions each. Target: front and ranks of
10,000 points in 4 objectives in at most half a second, for either kind of points.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from optuna.study._multi_objective import _fast_non_domination_rank

from analysis import pareto
from slim.provenance import probe

TARGET_S = 0.5
REPETITIONS = 3
KEYS = (
    "latency/e2e_mean_ms",
    "size/checkpoint_gb",
    "energy/net_j_per_query",
    "memory/required_mib",
    "latency/ttft_p95_ms",
    "latency/tpot_mean_ms",
)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the best time of some repetitions in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def kinds(points: int, objectives: int) -> dict[str, np.ndarray]:
    """Return points in a cube and on a sphere."""
    random = np.random.default_rng(0)
    directions = np.abs(random.normal(size=(points, objectives)))
    return {
        "cube": random.random((points, objectives)),
        "sphere": 1 - directions / np.linalg.norm(directions, axis=1, keepdims=True),
    }


def main() -> int:
    """Run, print, compare with the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--objectives", type=int, default=4, choices=range(2, 7))
    arguments = parser.parse_args()
    keys = KEYS[: arguments.objectives]
    print(f"hardware          {probe().hardware.label}")
    print(f"points            {arguments.points} in {arguments.objectives} objectives, best of {REPETITIONS}")
    slowest, same = 0.0, True
    for name, values in kinds(arguments.points, arguments.objectives).items():
        frame = pd.DataFrame(values, columns=list(keys), index=[f"{i:032x}" for i in range(len(values))])
        own_s, (mask, ranks) = timed(lambda values=values: (pareto.non_dominated(values), pareto.ranks(values)))
        whole_s, found = timed(lambda frame=frame: pareto.analyse(frame, keys))
        peer_s, expected = timed(lambda values=values: _fast_non_domination_rank(values))
        agree = bool((ranks == expected).all() and (mask == (expected == 0)).all() and len(found.run_ids) == mask.sum())
        print(
            f"{name:<8} {mask.sum():6d} on the front, {ranks.max() + 1:3d} ranks{'' if agree else '; other ranks than the peer'}"
        )
        print(f"  front and ranks {own_s:8.3f} s")
        print(f"  Optuna's ranks  {peer_s:8.3f} s ({peer_s / own_s:.1f} times as long)")
        print(f"  whole analysis  {whole_s:8.3f} s (crowding, hypervolume, contributions, who dominates whom)")
        slowest, same = max(slowest, own_s), same and agree
    met = same and slowest <= TARGET_S
    print(f"front and ranks {slowest:.3f} s, target at most {TARGET_S:.1f} s and the peer's ranks: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
