"""bitsandbytes offline: load quantized, save, load what was saved, and make sure that it answers as before.

LLM.int8() (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339); NF4 and FP4 (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314). Scales are kept in float32, not quantized a second time.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from slim import text
from slim.errors import Reason, StageError
from slim.precisions import Precision
from slim.quantize.preflight import Scheme
from slim.quantize.writing import load, save
from slim.records import OnProgress, Progress

PROMPTS = 3
PROMPT_TOKENS = 32
ANSWER_TOKENS = 8
TOLERANCE = 0.01
"""Largest difference between logits before and after, over the largest logit. Equal kernels on equal weights give none."""


@dataclass(frozen=True)
class Answers:
    """What a model says to the prompts of the check.

    Attributes:
        tokens: greedy tokens, prompts x tokens.
        logits: of each of them, prompts x tokens x vocabulary.
    """

    tokens: torch.Tensor
    logits: torch.Tensor


def quantize(
    source: Path,
    tokenizer: Any,
    *,
    precision: Precision,
    scheme: Scheme,
    out: Path,
    trust_remote_code: bool,
    on_progress: OnProgress,
    meter: contextlib.AbstractContextManager[Any],
) -> dict[str, str | int | float | bool]:
    """Quantize a model and write it to ``out``, which is then loaded and compared.

    Args:
        source: directory with the original weights.
        tokenizer: the model's.
        precision: a precision of method ``bitsandbytes``.
        scheme: settled by `slim.quantize.preflight`.
        out: existing directory; gets weights and configuration.
        trust_remote_code: run code that comes with the model.
        on_progress: told each step.
        meter: entered from loading the weights to the written ones; the check afterwards is not part of it.

    Returns:
        What was found out, as params.

    Raises:
        StageError: ``checkpoint_mismatch``: what was saved does not answer as the model did;
            ``unsupported_model``: bitsandbytes cannot compute with its layer sizes here.
    """
    device = {"": "cuda:0" if torch.cuda.is_available() else "cpu"}
    steps = iter(range(5))

    def step(name: str) -> None:
        on_progress(Progress(f"{precision.name}: {name}", next(steps), 5))

    with _quiet():
        step("load")
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "device_map": device}
        with meter:
            model = load(source, precision, quantization_config=_config(precision, scheme), **options)
            step("save")
            # Before the first forward pass: on a CPU with AVX512-BF16, bitsandbytes 0.50 lays 4-bit weights out anew in that
            # pass, and what it saves afterwards has its scales transposed and rounded.
            save(model, out)
        step("answer")
        prompts = _prompts(tokenizer, model.get_input_embeddings().num_embeddings).to(model.device)
        before = _answer(model, prompts, precision)
        del model
        step("load again")
        again = load(out, precision, **options)
        step("compare")
        after = _answer(again, prompts, precision)
    difference = compare(before, after, precision.name)
    return {"quantize.reload_logit_difference": difference}


def compare(before: Answers, after: Answers, name: str) -> float:
    """Return the largest difference between logits, over the largest logit.

    Args:
        before: answers of the model that was saved.
        after: answers of what was loaded.
        name: of the precision, for the error.

    Raises:
        StageError: ``checkpoint_mismatch``: other tokens, or logits beyond `TOLERANCE`.
    """
    same = before.tokens.shape == after.tokens.shape and bool((before.tokens == after.tokens).all())
    if not same:
        raise StageError(
            Reason.CHECKPOINT_MISMATCH, f"{name}: the saved checkpoint gives other tokens than the model that was saved"
        )
    difference = float((before.logits - after.logits).abs().max() / before.logits.abs().max())
    if not difference <= TOLERANCE:
        raise StageError(
            Reason.CHECKPOINT_MISMATCH,
            f"{name}: the saved checkpoint's logits differ by {difference:.3g} of the largest, allowed {TOLERANCE}",
        )
    return difference


def _config(precision: Precision, scheme: Scheme) -> BitsAndBytesConfig:
    # Names here match as prefixes, patterns as regular expressions from the start.
    skip = [pattern.removeprefix("re:") for pattern in scheme.ignore]
    if precision.weight_bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=precision.scheme,
        bnb_4bit_compute_dtype=getattr(torch, precision.dtype),
        bnb_4bit_use_double_quant=False,
        llm_int8_skip_modules=skip,
    )


def _prompts(tokenizer: Any, vocabulary: int) -> torch.Tensor:
    """Token ids, prompts x tokens, from different places of the built-in text; one length, so that nothing is padded."""
    passage = text.python_docs()
    starts = [len(passage) * i // PROMPTS for i in range(PROMPTS)]
    rows = [tokenizer(passage[s : s + 40 * PROMPT_TOKENS], add_special_tokens=False)["input_ids"][:PROMPT_TOKENS] for s in starts]
    shortest = min(len(row) for row in rows)
    return torch.tensor([row[:shortest] for row in rows]).clamp(max=vocabulary - 1)


def _answer(model: Any, prompts: torch.Tensor, precision: Precision) -> Answers:
    """Greedy decoding by hand: ``generate`` goes by generation defaults, which are not part of what is compared."""
    tokens, logits, cache, fed = [], [], None, prompts
    try:
        with torch.inference_mode():
            for _ in range(ANSWER_TOKENS):
                said = model(input_ids=fed, past_key_values=cache, use_cache=True)
                cache = said.past_key_values
                logits.append(said.logits[:, -1].float().cpu())
                fed = said.logits[:, -1:].argmax(-1)
                tokens.append(fed.cpu())
    except AssertionError as error:
        raise StageError(
            Reason.UNSUPPORTED_MODEL, f"{precision.name}: bitsandbytes cannot compute with this model's layer sizes here: {error}"
        ) from error
    return Answers(torch.cat(tokens, dim=1), torch.stack(logits, dim=1))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep bitsandbytes from saying the same once a layer and token."""
    loud = logging.getLogger("bitsandbytes")
    before = loud.level
    loud.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loud.setLevel(before)
