"""What a model version says about itself: tags to search by and a description to read."""

from collections.abc import Sequence

from slim.metrics import find, format_value, get
from slim.records import Stage
from slim.registry.subject import Subject
from slim.registry.words import VERSION
from slim.store import TAG

KEY_METRICS = (
    "accuracy/mean",
    "accuracy/<task>",
    "fidelity/kl_divergence_nats",
    "fidelity/top1_agreement",
    "fidelity/flip_rate",
    "fidelity/perplexity",
    "latency/ttft_<s>_ms",
    "latency/tpot_<s>_ms",
    "latency/e2e_<s>_ms",
    "latency/amortized_b8_ms",
    "throughput/output_tokens_per_s",
    "memory/weights_mib",
    "memory/required_mib",
    "memory/peak_mib",
    "energy/net_j_per_query",
    "energy/gross_j_per_query",
    "size/checkpoint_gb",
    "size/bits_per_weight",
    "impact/speedup",
)
"""Families of `slim.metrics` that a card shows, in this order; of the latencies the mean and the 95th percentile."""

SHOWN = (
    "accuracy/mean",
    "fidelity/kl_divergence_nats",
    "latency/ttft_mean_ms",
    "latency/tpot_mean_ms",
    "latency/e2e_mean_ms",
    "throughput/output_tokens_per_s",
    "energy/net_j_per_query",
    "memory/required_mib",
    "size/checkpoint_gb",
    "impact/speedup",
)
"""Those that a version bears as tags and its description names: the registry's page shows every tag of every version."""

_LEFT_OUT = ("_p50_ms", "_p99_ms", "_ci_low", "_ci_high")


def key_metrics(subject: Subject) -> dict[str, float]:
    """Return the key metrics that a configuration has, in the order in which a person reads them."""
    found: dict[str, float] = {}
    for family in KEY_METRICS:
        for key in sorted(subject.run.metrics):
            entry = find(key)
            if entry is not None and entry.key == family and not key.endswith(_LEFT_OUT):
                found.setdefault(key, subject.run.metrics[key])
    return found


def tags(subject: Subject, *, study: str, model_id: str, licence: str | None, forced: Sequence[str]) -> dict[str, str]:
    """Return the tags of a version.

    Args:
        subject: the configuration.
        study: run that recommended it.
        model_id: LoggedModel with the files.
        licence: of the base model; None when unknown.
        forced: reasons that it is registered in spite of.
    """
    params, metrics = subject.run.params, subject.run.metrics
    stages: tuple[Stage, ...] = ("quantize", "evaluate", "profile")
    runs = {VERSION.STAGE_RUNS[stage]: ",".join(r.run_id for r in subject.stages.get(stage, ())) for stage in stages}
    given = {
        VERSION.CONFIG: subject.name,
        VERSION.MODEL: params["model"],
        VERSION.REVISION: params["revision"],
        VERSION.PRECISION: params["precision"],
        VERSION.ENGINE: params["engine"],
        VERSION.HARDWARE: params["hardware"],
        VERSION.CONFIGURATION_RUN: subject.run.run_id,
        VERSION.STUDY_RUN: study,
        VERSION.SWEEP_RUN: subject.sweep.run_id if subject.sweep is not None else "",
        **runs,
        VERSION.CHECKPOINT: model_id,
        VERSION.COMMIT: subject.run.tags.get(TAG.COMMIT, ""),
        VERSION.LICENCE: licence or "",
        VERSION.FORCED: "; ".join(forced),
        **{f"{VERSION.VERDICT}{task}": verdict for task, verdict in subject.verdicts.items()},
        **{f"{VERSION.METRIC}{key.replace('/', '.')}": f"{metrics[key]:.6g}" for key in SHOWN if key in metrics},
    }
    return {name: value for name, value in given.items() if value}


def description(subject: Subject, *, forced: Sequence[str]) -> str:
    """Return a version's description, as Markdown."""
    params = subject.run.params
    lines = [
        # No markup at the beginning: lists of versions show it as it stands.
        f"{subject.model_name} at {params['precision']} ({subject.precision.title}), measured with {engine(subject)} on "
        f"{params['hardware']}."
    ]
    if forced:
        lines.append(f"**Registered by force**: {'; '.join(forced)}.")
    told = [f"- {key}: {amount(key, subject.run.metrics[key])}" for key in SHOWN if key in subject.run.metrics]
    if subject.baseline is not None and "accuracy/mean" in subject.baseline.metrics and told:
        told.insert(1, f"- accuracy/mean of the baseline: {amount('accuracy/mean', subject.baseline.metrics['accuracy/mean'])}")
    lines.append("\n".join(told))
    if subject.verdicts:
        lines.append(
            "Against its baseline: " + ", ".join(f"{task} {verdict}" for task, verdict in subject.verdicts.items()) + "."
        )
    lines.append("Model card: `README.md` beside the weights. Evidence: the runs that the tags name.")
    return "\n\n".join(line for line in lines if line)


def engine(subject: Subject) -> str:
    """Return the engine with its version, where that is known."""
    return f"{subject.run.params['engine']} {subject.run.params.get('engine_version', '')}".strip()


def amount(key: str, value: float) -> str:
    """Return a metric's value with its unit."""
    unit = get(key).unit
    return format_value(key, value) + (f" {unit}" if unit and unit != "fraction" else "")
