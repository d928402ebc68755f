"""Which metric stands in for another where that one is not known: one table for impact, recommendations and figures.

The three ask different things, so that their lists differ on purpose:

- **compared** (`slim.impact`): of two configurations, in percent. Only what both have and what scales with the work done.
- **decided** (`analysis.recommend`): which of several is best. Only what can tell them apart. The peak cannot: on vLLM it holds whatever
  was reserved. Gross energy can, idle power being the same for all; as a share it would make every saving look smaller. Energy an
  output token cannot where answers differ in length.
- **shown** (`analysis.figures`, the report): what a reader wants to see on an axis; the nearest thing is better than nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Standins:
    """Metric keys of a quantity by purpose, each list the best first; empty where the quantity is not asked for.

    In `compared`, ``<n>`` is a number of requests, of which the largest counts.
    """

    shown: tuple[str, ...]
    decided: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()


TABLE: Mapping[str, Standins] = {
    "Accuracy": Standins(shown=("accuracy/mean",), decided=("accuracy/mean",)),
    "First token": Standins(shown=("latency/ttft_mean_ms",)),
    "Latency": Standins(
        shown=("latency/e2e_mean_ms", "latency/amortized_b8_ms"),
        decided=("latency/e2e_mean_ms", "latency/amortized_b8_ms"),
        compared=("latency/e2e_mean_ms", "latency/amortized_b8_ms", "latency/b1_n<n>_mean_ms"),
    ),
    "Throughput": Standins(shown=("throughput/output_tokens_per_s", "throughput/requests_per_s")),
    "Energy": Standins(
        shown=("energy/net_j_per_query", "energy/net_j_per_output_token", "energy/net_kwh"),
        decided=("energy/net_j_per_query", "energy/gross_j_per_query", "energy/net_kwh"),
        # Energy of a whole pass says something only where the passes did the same work, as the published ones did; runs of this
        # project always have energy a query beside it.
        compared=("energy/net_j_per_query", "energy/net_kwh"),
    ),
    "Memory": Standins(
        shown=("memory/required_mib", "memory/peak_mib", "memory/mean_mib", "memory/weights_mib"),
        decided=("memory/required_mib", "memory/weights_mib", "size/checkpoint_gb"),
        compared=(
            "memory/required_mib",
            "memory/weights_mib",
            "memory/peak_mib",
            "memory/b1_n<n>_mean_mib",
            "memory/b1_n<n>_peak_mib",
        ),
    ),
    "Size": Standins(shown=("size/checkpoint_gb",), compared=("size/checkpoint_gb",)),
}
"""What performance is made of, by the name that a page gives it."""
