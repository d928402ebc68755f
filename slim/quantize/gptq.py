"""GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323) through llmcompressor, in compressed-tensors format."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import preset_name_to_scheme
from datasets import Dataset as Table
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from loguru import logger
from transformers import PreTrainedModel

from slim.config import QuantizeConfig
from slim.precisions import Precision
from slim.quantize.preflight import Scheme
from slim.quantize.writing import save
from slim.records import OnProgress, Progress

BATCH_TOKENS = 2048
"""Tokens of a calibration batch where samples have one length: the published protocol's sample, which is one batch."""
MAX_BATCH = 16
"""Samples of a batch; beyond it llmcompressor warns of cut samples, whatever their lengths."""


def quantize(
    model: PreTrainedModel,
    tokenizer: Any,
    samples: list[list[int]],
    *,
    precision: Precision,
    scheme: Scheme,
    config: QuantizeConfig,
    out: Path,
    on_progress: OnProgress,
) -> dict[str, str | int | float | bool]:
    """Round the model's weights and write them to ``out``.

    Args:
        model: original weights, in host memory; layers visit the GPU one at a time where there is one.
        tokenizer: the model's.
        samples: calibration tokens.
        precision: a precision of method ``gptq``.
        scheme: settled by `slim.quantize.preflight`.
        config: damping.
        out: existing directory; gets weights and configuration.
        on_progress: told each decoder layer.

    Returns:
        What was found out, as params.
    """
    group = preset_name_to_scheme(str(precision.scheme), ["Linear"])
    if scheme.group_size is not None:
        group.weights.group_size = scheme.group_size
    modifier = GPTQModifier(
        config_groups={"group_0": group}, ignore=list(scheme.ignore), dampening_frac=config.damping, **_blocking()
    )
    lengths = {len(s) for s in samples}
    table = Table.from_dict({"input_ids": samples, "attention_mask": [[1] * len(s) for s in samples]})
    with _quiet():
        with _told(model, on_progress):
            oneshot(
                model=model,
                tokenizer=tokenizer,
                dataset=table,
                recipe=[modifier],
                num_calibration_samples=len(samples),
                max_seq_length=max(lengths),
                shuffle_calibration_samples=False,
                # Batches of unequal samples would be padded or cut, and calibrate on something else.
                batch_size=min(MAX_BATCH, max(1, BATCH_TOKENS // max(lengths))) if len(lengths) == 1 else 1,
            )
        on_progress(Progress("save", 0, None))
        save(model, out, save_compressed=True)
    # Layers whose Hessian could not be inverted are rounded to nearest by llmcompressor, which only logs it.
    fallback = len(getattr(modifier, "_rtn_fallback_module_names", ()))
    return {"quantize.damping": config.damping, "quantize.rounded_to_nearest_layers": fallback}


def _blocking() -> dict[str, int]:
    """How the work is cut. The result is the same but for the order of sums.

    On a CPU the time goes into one small tensor operation after another: blocks of 32 columns instead of 128 touch less
    memory, and layers of one shape go through them together. On a GPU llmcompressor chooses well by itself.
    """
    if torch.cuda.is_available() or "batched_quantization" not in GPTQModifier.model_fields:
        return {}
    return {"block_size": 32, "batched_quantization": 4}


@contextlib.contextmanager
def _told(model: PreTrainedModel, on_progress: OnProgress) -> Iterator[None]:
    """Report a decoder layer when it sees its first calibration batch: layers are calibrated one after the other."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = list(getattr(decoder, "layers", ()))
    begun: set[int] = set()

    def begin(number: int) -> None:
        if number not in begun:
            begun.add(number)
            on_progress(Progress("gptq", number, len(layers), "layers"))

    def hook(number: int) -> Any:
        return lambda *_: begin(number)

    hooks = [layer.register_forward_pre_hook(hook(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for registered in hooks:
            registered.remove()
    if layers:
        on_progress(Progress("gptq", len(layers), len(layers), "layers"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep llmcompressor's several lines a layer out of the log, warnings excepted."""
    import sys

    logger.remove()
    sink = logger.add(
        sys.stderr, level="WARNING", filter=lambda record: record["level"].name != "METRIC", format="{level} {message}"
    )
    try:
        yield
    finally:
        logger.remove(sink)
