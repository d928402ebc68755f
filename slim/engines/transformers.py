"""Hugging Face transformers as an engine: static batches, whatever ``from_pretrained`` can load.

Serves 16-bit checkpoints and those that bitsandbytes quantized and saved.
"""

import gc
import inspect
import logging
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from slim.engines.base import Completion, EngineInfo, EngineSpec, GenerationRequest, Score, ScoreRequest
from slim.engines.checkpoints import context_length, kv_bytes_per_token, load_config, module_bytes, one_line
from slim.engines.checks import check_generation, check_scores, check_sequence
from slim.engines.decoding import continuation_text, cut, tail_length
from slim.errors import Reason, StageError

_STARTED_S = time.perf_counter()

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteriaList

    from slim.engines.transformers_scoring import Scorer
except ImportError as _error:
    raise StageError(Reason.MISSING_PACKAGE, f"the transformers engine cannot be imported: {one_line(_error)}") from _error

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_IMPORT_S = time.perf_counter() - _STARTED_S


class _Row:
    """One sequence of a batch: its tokens and times until it ended."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.times_s: list[float] = []
        self.finish_reason: Literal["stop", "length"] | None = None


class _Recorder:
    """A stopping criterion: called by ``generate`` after each token, keeps the times and says which rows have ended.

    The ends are decided here and not by ``generate``, because rows of one batch may differ in ``ignore_eos``,
    ``max_tokens`` and ``stop``. A row that has ended goes on in the batch, as static batching has it; what comes after
    its end is dropped.
    """

    def __init__(self, rows: list[_Row], eos: frozenset[int], tokenizer: Any) -> None:
        self._rows = rows
        self._eos = eos
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        # Reading the tokens waits for the device, so the time after it is that of finished work.
        tokens = input_ids[:, -1].tolist()
        now_s = time.perf_counter()
        for row, token in zip(self._rows, tokens, strict=True):
            if row.finish_reason is None:
                row.tokens.append(token)
                row.times_s.append(now_s)
                row.finish_reason = self._end(row)
        done = [row.finish_reason is not None for row in self._rows]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _end(self, row: _Row) -> Literal["stop", "length"] | None:
        request = row.request
        if not request.ignore_eos and row.tokens[-1] in self._eos:
            return "stop"
        if request.stop:
            tail = row.tokens[-tail_length(request.stop) :]
            before = (*request.prompt, *row.tokens[: len(row.tokens) - len(tail)])
            if cut(continuation_text(self._tokenizer, before, tail), request.stop)[1]:
                return "stop"
        return "length" if len(row.tokens) >= request.max_tokens else None


class TransformersEngine:
    """See the module; options are those of `slim.config.TransformersOptions`.

    Raises:
        StageError: package missing, out of memory, scheme or architecture not supported, or the start failed.
    """

    def __init__(self, spec: EngineSpec) -> None:
        started_s = time.perf_counter()
        self._device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
        config = load_config(spec.checkpoint, spec.trust_remote_code)
        dtype: torch.dtype = getattr(torch, spec.dtype)
        torch.manual_seed(spec.seed)
        # It says that it casts bfloat16 once a layer and token, in the midst of what is timed.
        logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(spec.checkpoint), trust_remote_code=spec.trust_remote_code)
            self._model, loading = AutoModelForCausalLM.from_pretrained(
                str(spec.checkpoint),
                dtype=dtype,
                attn_implementation=spec.options.get("attention", "sdpa"),
                device_map={"": self._device},
                trust_remote_code=spec.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
            raise _start_failure(error) from error
        _check_loaded(self._model, config, loading)
        self._model.eval()
        self._eos = _eos_ids(self._model.generation_config, config)
        # The model's own generation settings would fill whatever a request leaves open (sampling, penalties).
        self._model.generation_config = GenerationConfig()
        keeps_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._scorer: Scorer | None = Scorer(self._model, self._device, keeps_logits)
        self._info = EngineInfo(
            engine="transformers",
            version=version("transformers"),
            device=self._device,
            max_model_len=context_length(config, spec.options.get("max_model_len", 8192)),
            vocab_size=config.vocab_size,
            weights_bytes=module_bytes(self._model),
            kv_bytes_per_token=kv_bytes_per_token(config, dtype.itemsize),
            kv_capacity_tokens=None,
            max_concurrency=None,
            start_s=time.perf_counter() - started_s + _import_s(),
        )

    @property
    def info(self) -> EngineInfo:
        """What was opened."""
        return self._info

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """See `slim.engines.base.Engine`; nothing is cached between requests."""
        check_generation(requests, concurrency, self._info)
        answers: list[Completion] = []
        for start in range(0, len(requests), concurrency):
            answers += self._generate_batch(requests[start : start + concurrency])
        return answers

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[tuple[Score, ...]]:
        """See `slim.engines.base.Engine`; requests of about the same length share a batch, the longest first."""
        check_scores(requests, batch_size, self._info)
        assert self._scorer is not None
        try:
            return self._scorer.score(requests, batch_size)
        except (RuntimeError, MemoryError) as error:
            raise self._run_failure(error) from error

    def logits(self, tokens: tuple[int, ...]) -> "npt.NDArray[np.float32]":
        """See `slim.engines.base.Engine`."""
        check_sequence(tokens, self._info)
        assert self._scorer is not None
        try:
            logits: npt.NDArray[np.float32] = self._scorer.logits(tokens).numpy()
        except (RuntimeError, MemoryError) as error:
            raise self._run_failure(error) from error
        return logits

    def close(self) -> None:
        """See `slim.engines.base.Engine`."""
        self._model = self._scorer = None
        _release()

    def _generate_batch(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        rows = [_Row(request) for request in requests]
        width = max(len(request.prompt) for request in requests)
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=max(request.max_tokens for request in requests),
            pad_token_id=0,
        )
        submitted_s = time.perf_counter()
        try:
            padding = [width - len(request.prompt) for request in requests]
            ids = [[0] * pad + list(request.prompt) for pad, request in zip(padding, requests, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in padding]
            with torch.inference_mode():
                self._model.generate(
                    input_ids=torch.tensor(ids, device=self._device),
                    attention_mask=torch.tensor(mask, device=self._device),
                    generation_config=settings,
                    stopping_criteria=StoppingCriteriaList([_Recorder(rows, self._eos, self._tokenizer)]),
                )
        except (RuntimeError, MemoryError) as error:
            raise self._run_failure(error) from error
        return [self._completion(row, submitted_s) for row in rows]

    def _completion(self, row: _Row, submitted_s: float) -> Completion:
        text = continuation_text(self._tokenizer, row.request.prompt, row.tokens)
        return Completion(
            tokens=tuple(row.tokens),
            text=cut(text, row.request.stop)[0],
            finish_reason=row.finish_reason or "length",
            submitted_s=submitted_s,
            token_times_s=tuple(row.times_s) if row.request.token_times else (),
        )

    def _run_failure(self, error: BaseException) -> StageError:
        """Translate, and let go of what the failed pass held, so that a smaller batch can be tried."""
        memory = _is_out_of_memory(error)
        traceback.clear_frames(error.__traceback__)
        _release()
        reason = Reason.OUT_OF_MEMORY if memory else Reason.ENGINE_CRASH
        return StageError(reason, one_line(error))


def _import_s() -> float:
    """The time that the imports took, to the first engine that is opened; the later ones find them done."""
    global _IMPORT_S
    taken_s, _IMPORT_S = _IMPORT_S, 0.0
    return taken_s


def _eos_ids(generation: Any, config: Any) -> frozenset[int]:
    """End-of-sequence ids as the model's files have them: a list or one id, the generation settings first."""
    for holder in (generation, config):
        value = getattr(holder, "eos_token_id", None)
        if value is not None:
            return frozenset([value] if isinstance(value, int) else value)
    return frozenset()


def _check_loaded(model: Any, config: Any, loading: dict[str, Any]) -> None:
    """Refuse what ``from_pretrained`` only warns of: a scheme it does not know, and weights it made up."""
    scheme = getattr(config, "quantization_config", None)
    if scheme and getattr(model, "hf_quantizer", None) is None:
        method = scheme.get("quant_method") if isinstance(scheme, dict) else scheme
        raise StageError(Reason.UNSUPPORTED_SCHEME, f"transformers does not know the quantization method {method!r}")
    for what in ("missing_keys", "mismatched_keys"):
        if keys := sorted(map(str, loading.get(what) or ())):
            message = f"the checkpoint does not fit its configuration, {what.replace('_', ' ')}: {', '.join(keys[:3])}"
            raise StageError(Reason.CHECKPOINT_MISMATCH, message + (f" and {len(keys) - 3} more" if len(keys) > 3 else ""))


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _start_failure(error: BaseException) -> StageError:
    text = one_line(error)
    lowered = text.lower()
    if _is_out_of_memory(error):
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, ImportError):
        reason = Reason.MISSING_PACKAGE
    elif "quantiz" in lowered:
        reason = Reason.UNSUPPORTED_SCHEME
    elif "does not recognize this architecture" in lowered or "unrecognized configuration class" in lowered:
        reason = Reason.UNSUPPORTED_MODEL
    else:
        reason = Reason.ENGINE_START
    return StageError(reason, text)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
