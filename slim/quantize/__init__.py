"""Checkpoint makers: original weights in, a quantized checkpoint out. Heavy packages are imported when one is made."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim import checkpoint, layout
from slim.config import QuantizeConfig
from slim.errors import ConfigError, Reason, StageError
from slim.files import written_aside
from slim.precisions import Precision
from slim.quantize.preflight import Scheme, check_packages, preflight, versions_that_matter
from slim.records import Checkpoint, Dataset, OnProgress, Progress, ignore_progress

__all__ = ["Quantized", "Scheme", "check_packages", "preflight", "quantize", "versions_that_matter"]

Params = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Quantized:
    """A checkpoint that was made.

    Attributes:
        checkpoint: where it lies.
        params: what was found out while making it, by the names that runs carry (``quantize.group_size``).
        datasets: what it was calibrated on.
    """

    checkpoint: Checkpoint
    params: Params
    datasets: tuple[Dataset, ...]


def quantize(
    source: Path,
    precision: Precision,
    config: QuantizeConfig,
    out: Path,
    *,
    key: str,
    seed: int,
    trust_remote_code: bool = False,
    on_progress: OnProgress = ignore_progress,
    meter: AbstractContextManager[Any] | None = None,
) -> Quantized:
    """Make a quantized checkpoint: a directory that ``vllm serve`` and ``from_pretrained`` take, complete or absent.

    Args:
        source: directory with the original weights, in Hugging Face layout.
        precision: what to make.
        config: how.
        out: directory to make; absent or empty.
        key: of the quantize stage, written to the manifest.
        seed: of everything random.
        trust_remote_code: run code that comes with the model.
        on_progress: told layers or steps.
        meter: entered around what makes the checkpoint, from loading the weights to the written ones: without reading the
            calibration's data before, and checking what was written after.

    Raises:
        ConfigError: a precision that needs no quantizing, or a setting that is impossible on this model.
        StageError: the scheme does not fit the model, a package or data is missing, out of memory, or the checkpoint
            does not answer as the model that was saved.
    """
    if not precision.is_quantized:
        raise ConfigError(f"precision {precision.name!r} serves the original weights and needs no quantizing")
    shape = checkpoint.describe(source)
    scheme = preflight(shape, precision, config)
    assert scheme is not None
    check_packages(precision)
    if shape.max_positions is not None:
        config = config.model_copy(update={"max_tokens": min(config.max_tokens, shape.max_positions)})
    on_progress(Progress("load", 0, None))

    from slim.quantize.writing import copy_side_files, few_words, translated

    datasets: tuple[Dataset, ...] = ()
    with few_words(), translated(precision.name), written_aside(out) as aside:
        how: dict[str, Any] = {
            "scheme": scheme,
            "out": aside,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
            "on_progress": on_progress,
            "meter": meter or nullcontext(),
        }
        if precision.method == "gptq":
            found, datasets = _gptq(source, precision, config=config, **how)
        else:
            found = _bitsandbytes(source, precision, **how)
        copy_side_files(source, aside, with_code=trust_remote_code)
        _check_config(aside)
        made = checkpoint.write_manifest(aside, key, shape.parameters)
    params: dict[str, str | int | float | bool] = {
        "quantize.scheme": str(precision.scheme),
        "quantize.weight_bits": precision.weight_bits,
        "quantize.activation_bits": precision.activation_bits,
        "quantize.ignore": ",".join(scheme.ignore),
        "quantize.layers": scheme.layers,
        **found,
    }
    if scheme.group_size is not None:
        params["quantize.group_size"] = scheme.group_size
    return Quantized(Checkpoint(out, key, made.weight_bytes, made.parameters), params, datasets)


def _gptq(
    source: Path,
    precision: Precision,
    *,
    scheme: Scheme,
    config: QuantizeConfig,
    out: Path,
    seed: int,
    trust_remote_code: bool,
    on_progress: OnProgress,
    meter: AbstractContextManager[Any],
) -> tuple[Params, tuple[Dataset, ...]]:
    from transformers import set_seed

    from slim.quantize import gptq
    from slim.quantize.calibration import samples
    from slim.quantize.writing import load, load_tokenizer

    set_seed(seed)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    # Before the weights: data that cannot be had is found out in a second.
    chosen, dataset = samples(config, tokenizer, seed)
    with meter:
        model = load(source, precision, trust_remote_code=trust_remote_code)
        found = gptq.quantize(
            model,
            tokenizer,
            chosen,
            precision=precision,
            scheme=scheme,
            config=config,
            out=out,
            on_progress=on_progress,
        )
    read = {"quantize.calibration_samples": len(chosen), "quantize.calibration_tokens": sum(map(len, chosen))}
    return {**read, **found}, (dataset,)


def _bitsandbytes(
    source: Path,
    precision: Precision,
    *,
    scheme: Scheme,
    out: Path,
    seed: int,
    trust_remote_code: bool,
    on_progress: OnProgress,
    meter: AbstractContextManager[Any],
) -> Params:
    from transformers import set_seed

    from slim.quantize import bnb
    from slim.quantize.writing import load_tokenizer

    set_seed(seed)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    return bnb.quantize(
        source,
        tokenizer,
        precision=precision,
        scheme=scheme,
        out=out,
        trust_remote_code=trust_remote_code,
        on_progress=on_progress,
        meter=meter,
    )


def _check_config(path: Path) -> None:
    """A checkpoint that does not say how it is quantized would be served as something else."""
    if "quantization_config" not in layout.read_config(path):
        raise StageError(Reason.INTERNAL, "the quantized model was saved without its quantization_config")
