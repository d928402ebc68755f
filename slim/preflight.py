"""Whether a configuration can work at all on this machine: memory, disk, data and access, found out before any work is spent.

Only what is certain is refused: memory is counted as what has to be there at least, and what is not known (a model that is still at the
Hub) is not held against anybody.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slim import files, hub, models, rows, text
from slim.checkpoint import Shape
from slim.config import QuantizeConfig, SweepConfig
from slim.errors import Reason, StageError
from slim.evaluate import mirror
from slim.precisions import EngineName, Precision
from slim.provenance import Environment, cpu_hardware
from slim.quantize.preflight import BNB_BLOCK
from slim.records import Failure, ModelSource

_GIB = 1 << 30
_SCALE_BITS = 16
_SIDE_BYTES = 4 << 20
"""Tokenizer and manifest of a checkpoint, roughly."""
_STAGE_BYTES = 2 << 20
"""Log and raw data of a stage, roughly."""
_KEPT_LOGIT_BYTES = 2
_SPARE_BYTES = 256 << 20
"""Left free on a disk: databases and logs grow too."""


def weight_bytes(shape: Shape, precision: Precision, config: QuantizeConfig) -> int:
    """Return the size of a model's weights at a precision: linear layers with their scales at its bits, everything else at 16."""
    embedded = min(shape.parameters, shape.vocab_size * shape.hidden_size * (1 if shape.is_tied else 2))
    linear = shape.parameters - embedded if precision.is_quantized else 0
    group = BNB_BLOCK if precision.method == "bitsandbytes" else config.group_size
    scales = _SCALE_BITS / group if precision.is_quantized and precision.weight_bits < 8 else 0.0
    return int(2 * (shape.parameters - linear) + linear * (precision.weight_bits + scales) / 8)


def cache_bytes_per_token(shape: Shape) -> int:
    """Return what a token takes in the KV cache at 16 bits: keys and values of each layer's key-value heads."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * 2


def context(shape: Shape, config: SweepConfig) -> Failure | None:
    """Say why a model cannot take the profile's requests; None where it may."""
    if config.profile is None or shape.max_positions is None:
        return None
    tokens = config.profile.input_tokens + config.profile.output_tokens
    if tokens <= shape.max_positions:
        return None
    return Failure(
        Reason.UNSUPPORTED_MODEL,
        f"profile.input_tokens + profile.output_tokens is {tokens}, beyond the model's context of {shape.max_positions} tokens; take shorter ones",
    )


def memory(
    shape: Shape,
    precision: Precision,
    engine: EngineName,
    config: SweepConfig,
    *,
    measure: Environment,
    quantizing: Environment,
    makes: bool,
) -> Failure | None:
    """Say why a configuration cannot fit into memory; None where it may.

    Serving needs the weights and, beside them, the cache that is set aside (vLLM on a CPU) or that one profiled request fills.
    Quantizing needs the original weights in the host's memory with GPTQ, which moves one layer at a time to the device and keeps
    the calibration's activations on the host; with bitsandbytes the quantized ones on the device.

    Args:
        shape: of the model.
        precision, engine: how it is served.
        config: the sweep.
        measure, quantizing: environments of the workers.
        makes: whether the checkpoint has to be made.
    """
    hardware, options = measure.hardware, config.engines
    weights = weight_bytes(shape, precision, config.quantize)
    request = config.profile.input_tokens + config.profile.output_tokens if config.profile else 1
    cache, share, gpus = request * cache_bytes_per_token(shape), 1.0, 1
    if engine == "vllm" and hardware.device == "cpu":
        cache = int(options.vllm.cpu_kv_cache_gib * _GIB)
    elif engine == "vllm":
        share, gpus = options.vllm.gpu_memory_utilization, options.vllm.tensor_parallel_size
    where = f"{gpus} GPUs have" if gpus > 1 else "the GPU has" if hardware.device == "cuda" else "this machine has"
    have = None if hardware.memory_bytes is None else int(hardware.memory_bytes * share * gpus)
    if have is not None and weights + cache > have:
        part = f" of it for vLLM (gpu_memory_utilization {share:g})" if share < 1 else ""
        return Failure(
            Reason.OUT_OF_MEMORY,
            f"serving needs at least {_gib(weights + cache)} (weights {_gib(weights)}, cache {_gib(cache)}), and {where} "
            f"{_gib(have)}{part}; take fewer bits, a smaller model or cache, or more memory",
        )
    if not makes:
        return None
    host = cpu_hardware().memory_bytes
    if precision.method == "gptq":
        settings = config.quantize
        # Windows of a text are as long as they may be; chats are mostly shorter.
        tokens = settings.samples * settings.max_tokens if text.is_local(settings.calibration) else 0
        tokens = min(tokens, settings.samples * (shape.max_positions or settings.max_tokens))
        activations = 2 * tokens * shape.hidden_size
        if host is not None and 2 * shape.parameters + activations > host:
            return Failure(
                Reason.OUT_OF_MEMORY,
                f"quantizing needs at least {_gib(2 * shape.parameters + activations)} of the host's memory (original weights "
                f"{_gib(2 * shape.parameters)}, activations of the calibration {_gib(activations)}), and it has {_gib(host)}; take fewer "
                "calibration samples or a bitsandbytes precision",
            )
    device = quantizing.hardware.memory_bytes
    if precision.method == "bitsandbytes" and device is not None and weights > device:
        return Failure(
            Reason.OUT_OF_MEMORY, f"quantizing needs at least {_gib(weights)} on the device, and it has {_gib(device)}"
        )
    return None


def calibration(precision: Precision, config: QuantizeConfig) -> Failure | None:
    """Say why calibration data cannot be had: a Hub data set while the Hub must not be asked, and none in its cache."""
    name = config.calibration
    if precision.method != "gptq" or text.is_local(name) or not rows.is_hub_id(name):
        return None
    if not hub.is_offline() or mirror.is_cached(name):
        return None
    return Failure(
        Reason.DATA_UNAVAILABLE,
        f"quantize.calibration {name!r} is not on this machine, and HF_HUB_OFFLINE forbids asking the Hub; name {text.BUILTIN} or a "
        "local text file",
    )


def access(source: ModelSource) -> Failure | None:
    """Say why a model of the Hub cannot be fetched: gated, and not for whoever asks."""
    if source.kind != "hub" or models.materialized(source) is not None:
        return None
    try:
        hub.check_access(source)
    except StageError as error:
        return Failure(error.reason, error.message)
    return None


def result_bytes(
    shape: Shape | None, precision: Precision, config: SweepConfig, stages: Sequence[str], *, keeps: bool, parameters: float
) -> int:
    """Return roughly what stages leave behind: checkpoint, raw data, logs, a baseline's distributions.

    Args:
        shape: of the model; None where it is not known.
        precision: that is served.
        config: the sweep.
        stages: that are to run.
        keeps: whether the evaluation keeps its distributions.
        parameters: a guess, for a model whose shape is not known.
    """
    found = _STAGE_BYTES * len(stages)
    if "quantize" in stages:
        guess = int(parameters * precision.weight_bits / 8)
        found += _SIDE_BYTES + (guess if shape is None else weight_bytes(shape, precision, config.quantize))
    settings = config.evaluate
    if "evaluate" in stages and keeps and settings is not None and settings.measures_fidelity:
        most = settings.fidelity_max_mib << 20
        tokens = settings.fidelity_tokens or 0
        found += most if shape is None else min(most, tokens * shape.vocab_size * _KEPT_LOGIT_BYTES)
    return found


def source_bytes(source: ModelSource, shape: Shape | None) -> int:
    """Return roughly what a model takes below `slim.files.home` that is converted or made there and is not there yet."""
    if source.kind in ("local", "hub") or models.materialized(source) is not None:
        return 0
    # A GGUF file that is not converted yet tells its shape only afterwards; it has half a byte a weight or more.
    size = source.path.stat().st_size if source.path is not None and source.path.is_file() else 0
    return 2 * shape.parameters + _SIDE_BYTES if shape is not None else 4 * size


@dataclass
class Disk:
    """A disk that fills up while a plan is made.

    Attributes:
        place: a directory on it, made or not.
        free_bytes: what is left after what has been taken.
    """

    place: Path
    free_bytes: int

    @classmethod
    def of(cls, place: Path) -> "Disk":
        """Look at a disk."""
        return cls(place, shutil.disk_usage(files.nearest(place)).free - _SPARE_BYTES)

    def take(self, wanted: int, what: str) -> Failure | None:
        """Set bytes aside; say why that cannot be, and then nothing is."""
        if wanted > self.free_bytes:
            return Failure(
                Reason.DISK_FULL,
                f"{what} takes about {_gib(wanted)} of disk, and {self.place} has {_gib(max(0, self.free_bytes))} for it; make room, or "
                "put SLIM_HOME and the store elsewhere",
            )
        self.free_bytes -= wanted
        return None


def _gib(count: float) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB / 10 else f"{count / (1 << 20):.0f} MiB"
