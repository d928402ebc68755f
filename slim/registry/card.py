"""The model card: what a checkpoint is, how it was made, what was measured, and what is not known. It holds no clock and no version
number, so that the same evidence gives the same text."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from slim.metrics import format_value, get
from slim.registry.evidence import engine, key_metrics
from slim.registry.origin import Origin
from slim.registry.subject import Subject
from slim.store import TAG

_NORMAL_95 = 1.959964
"""Standard errors to either side of a mean that hold 95 % of a normal distribution."""
_LIBRARIES = {"gptq": "compressed-tensors", "bitsandbytes": "bitsandbytes"}


def write(subjects: Sequence[tuple[Subject, Sequence[str]]], origin: Origin) -> str:
    """Return the card of a checkpoint.

    Args:
        subjects: configurations that serve it, each with the reasons that it is registered in spite of; the first tells how the checkpoint
            was made.
        origin: of the base model.
    """
    first = subjects[0][0]
    parts = [
        _metadata([subject for subject, _ in subjects], origin),
        f"# {title(first)}",
        f"{_what(first)} of {origin.title}. This card is written from what was measured; the runs that it names are in the tracking store.",
        "## The checkpoint",
        _table(("", ""), _facts(first, origin)),
        _loading(first),
        "## Calibration",
        _calibration(first),
    ]
    for subject, forced in subjects:
        parts += [f"## Measured as `{subject.name}`", *_measured(subject, forced)]
    parts += ["## Limits", "\n".join(f"- {line}" for line in _limits(subjects, origin))]
    return "\n\n".join(parts) + "\n"


def title(subject: Subject) -> str:
    """Return what a checkpoint is called."""
    return f"{subject.model_name}, {subject.precision.name if subject.precision.is_quantized else 'original weights'}"


def _metadata(subjects: Sequence[Subject], origin: Origin) -> str:
    """The YAML that the Hub reads."""
    precision = subjects[0].precision
    library = _LIBRARIES.get(precision.method)
    values: dict[str, Any] = {}
    if origin.licence:
        values["license"] = origin.licence
    if origin.repository:
        values["base_model"] = origin.repository
        if precision.is_quantized:
            values["base_model_relation"] = "quantized"
    engines = sorted({s.run.params["engine"] for s in subjects})
    names = sorted({s.precision.name for s in subjects})
    values |= {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(
            dict.fromkeys(["slim", *names, *([library] if library else []), *(e for e in engines if e != "transformers")])
        ),
    }
    return "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True) + "---"


def _what(subject: Subject) -> str:
    if not subject.precision.is_quantized:
        return "The original weights"
    return f"A quantized checkpoint ({subject.precision.title})"


def _facts(subject: Subject, origin: Origin) -> list[tuple[str, str]]:
    params, metrics = subject.run.params, subject.run.metrics
    precision = subject.precision
    rows = [
        ("base model", f"{origin.title} (`{params['model']}`)" if origin.title != params["model"] else f"`{params['model']}`"),
        ("revision", f"`{params['revision']}`"),
        ("licence of the base model", origin.licence or "not stated by the source: look it up before you use it"),
    ]
    if precision.is_quantized:
        library = {"gptq": "llmcompressor", "bitsandbytes": "bitsandbytes"}[precision.method]
        rows += [
            ("quantized with", f"{library} on {_quantized_on(subject)}"),
            ("scheme", f"{precision.title} (`{params.get('quantize.scheme', precision.scheme)}`)"),
            ("weights, activations", f"{precision.weight_bits} bit, {precision.activation_bits} bit"),
            ("group size", params.get("quantize.group_size", "") if precision.grouped else ""),
            ("layers left in 16 bit", params.get("quantize.ignore", "")),
            ("key of the quantize stage", f"`{subject.quantize.tags[TAG.KEY]}`" if subject.quantize is not None else ""),
        ]
    rows += [(name, _valued(key, metrics[key])) for name, key in _SIZES if key in metrics]
    rows.append(("hashes of all files", "`slim_checkpoint.json`"))
    return [row for row in rows if row[1]]


_SIZES = (("weights", "size/checkpoint_gb"), ("bits per weight", "size/bits_per_weight"), ("parameters", "size/parameters"))


def _quantized_on(subject: Subject) -> str:
    run = subject.quantize
    return run.params.get("hardware", "unknown hardware") if run is not None else "unknown hardware"


def _loading(subject: Subject) -> str:
    """How to load the folder, with every engine that serves its precision."""
    ways = []
    if "vllm" in subject.precision.engines:
        ways.append("vllm serve <this folder>")
    if "transformers" in subject.precision.engines:
        ways.append('AutoModelForCausalLM.from_pretrained("<this folder>")')
    return "A plain Hugging Face directory: " + " or ".join(f"`{way}`" for way in ways) + "."


def _calibration(subject: Subject) -> str:
    params = subject.run.params
    if not subject.precision.is_quantized:
        return "None: nothing was quantized."
    if "quantize.calibration_samples" not in params:
        return "None: the weights are rounded without looking at data."
    told = (
        f"{params['quantize.calibration_samples']} samples of at most {params.get('quantize.max_tokens', '?')} tokens "
        f"({params.get('quantize.calibration_tokens', '?')} in all) of `{params.get('quantize.calibration', '?')}`, "
        f"seed {params.get('seed', '?')}."
    )
    return (
        told
        + " The weights are fitted to what the calibration shows: text that is unlike it may fare worse than the figures below."
    )


def _measured(subject: Subject, forced: Sequence[str]) -> list[str]:
    params = subject.run.params
    with_versions = [engine(subject)]
    with_versions += [f"{n} {params[p]}" for n, p in (("torch", "torch_version"), ("driver", "driver_version")) if p in params]
    parts = [f"On {params['hardware']}, {', '.join(with_versions)}."]
    if forced:
        parts.append(f"**Registered by force, although {'; '.join(forced)}.**")
    if {"profile.input_tokens", "profile.output_tokens"} <= params.keys():
        parts[0] += (
            f" Latencies: prompts of {params['profile.input_tokens']} tokens, {params['profile.output_tokens']} generated, one request at a "
            f"time, {params.get('profile.requests', '?')} requests."
        )
    base = subject.baseline.metrics if subject.baseline is not None else {}
    rows = [
        (key, _valued(key, value), _interval(subject, key, value), _valued(key, base[key]) if key in base else "")
        for key, value in key_metrics(subject).items()
    ]
    baseline = f"baseline `{subject.baseline.name.partition('/')[2]}`" if subject.baseline is not None else "baseline"
    columns = ("metric", "value", "95 % interval", baseline)
    # A baseline has no baseline: its column would be empty.
    parts.append(_table(columns, rows) if base else _table(columns[:3], [row[:3] for row in rows]))
    verdicts = _verdicts(subject)
    if verdicts:
        parts.append(verdicts)
    runs = [("configuration", run.run_id) for run in (subject.run, *subject.older)]
    runs += [(stage, run.run_id) for stage, found in subject.stages.items() for run in found]
    parts.append("Runs: " + ", ".join(f"{name} `{run_id}`" for name, run_id in runs) + ".")
    return parts


def _verdicts(subject: Subject) -> str:
    """Accuracy against the baseline, task by task, with the interval of the difference."""
    if not subject.verdicts:
        return ""
    try:
        settings = json.loads(subject.run.tags.get(TAG.COMPARISON, "{}"))
    except ValueError:
        settings = {}
    rows = []
    for task, verdict in subject.verdicts.items():
        key = f"impact/{task}_difference"
        value = subject.run.metrics.get(key)
        rows.append((task, "" if value is None else _valued(key, value), _interval(subject, key, value), verdict))
    margin = f" at a margin of {settings['margin']:g}" if "margin" in settings else ""
    return f"Accuracy less the baseline's, and the verdict{margin}:\n\n" + _table(
        ("task", "difference", "95 % interval", "verdict"), rows
    )


def _interval(subject: Subject, key: str, value: float | None) -> str:
    metrics = subject.run.metrics
    low, high = metrics.get(f"{key}_ci_low"), metrics.get(f"{key}_ci_high")
    if (low is None or high is None) and value is not None and (error := metrics.get(f"{key}_stderr")) is not None:
        # Of a proportion, so it ends at 0 and 1.
        low, high = max(0.0, value - _NORMAL_95 * error), min(1.0, value + _NORMAL_95 * error)
    if low is None or high is None:
        return ""
    return f"{format_value(key, low)} to {format_value(key, high)}"


def _limits(subjects: Sequence[tuple[Subject, Sequence[str]]], origin: Origin) -> list[str]:
    lines = [origin.remark] if origin.remark else []
    first = subjects[0][0]
    hardware = sorted({subject.run.params["hardware"] for subject, _ in subjects})
    lines.append(
        f"Speed, memory and energy were measured on {', '.join(hardware)} only; on other hardware the order may be another."
    )
    for subject, _ in subjects:
        if flagged := subject.run.tags.get(TAG.VALIDITY):
            lines.append(f"The measurement of `{subject.name}` did not pass every check: {flagged}.")
    if any("accuracy/mean" in subject.run.metrics for subject, _ in subjects):
        items = {k.removeprefix("evaluate.items."): v for k, v in first.run.params.items() if k.startswith("evaluate.items.")}
        counted = f" ({', '.join(f'{v} of {k}' for k, v in sorted(items.items()))})" if items else ""
        lines.append(
            f"Accuracy is that of the tasks above on the items that were asked{counted}, and says nothing about other tasks."
        )
    else:
        lines.append("Accuracy was not measured.")
    if all(
        "energy/net_j_per_query" not in s.run.metrics and "energy/gross_j_per_query" not in s.run.metrics for s, _ in subjects
    ):
        lines.append("Energy was not measured.")
    undecided = sorted({t for subject, _ in subjects for t, verdict in subject.verdicts.items() if verdict == "undecided"})
    if undecided:
        lines.append(f"Too few items to tell whether it is as accurate as its baseline on {', '.join(undecided)}.")
    lines.append(
        "Safety, bias and languages other than those of the tasks were not examined. What the base model's card warns of holds."
    )
    return lines


def _valued(key: str, value: float) -> str:
    unit = get(key).unit
    return format_value(key, value) + (f" {unit}" if unit and unit != "fraction" else "")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruled = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in ruled)
