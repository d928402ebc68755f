"""Frames as `analysis.frame` gives them, without a store."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

ACCURACY, LATENCY, ENERGY, MEMORY = (
    "accuracy/mean",
    "latency/e2e_mean_ms",
    "energy/net_j_per_query",
    "memory/required_mib",
)


def frame_of(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row a mapping, what it leaves out as for a finished bf16 or gptq-int8 configuration of one model."""
    made = []
    for index, row in enumerate(rows):
        precision = row.get("precision", "gptq-int8")
        defaults = {
            "run_id": f"r{index}",
            "configuration": f"m/c{index}@vllm",
            "status": "FINISHED",
            "model": "m",
            "revision": "1",
            "precision": precision,
            "method": "none" if precision in ("bf16", "fp16") else "gptq",
            "engine": "vllm",
            "hardware": "H100",
            "baseline": None,
            "failure": None,
            "validity": None,
        }
        made.append({**defaults, **row})
    return pd.DataFrame(made).set_index("run_id")


def points(values: np.ndarray, keys: Sequence[str] = (ACCURACY, LATENCY, ENERGY, MEMORY)) -> pd.DataFrame:
    """A configuration a row of values, in the metrics' own directions."""
    return frame_of([dict(zip(keys, map(float, row), strict=False)) for row in values])
