"""Text generation from the checkpoint that this file was stored with: MLflow's loader module of every checkpoint.

A copy of this file lies in the checkpoint's folder ``code/``, so that it loads where the package ``slim`` is not installed. It
imports transformers and, where that is there, vLLM, and nothing of this project. The checkpoint is read as any tool would read
it: configuration, safetensors, tokenizer.
"""

import gc
import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

DEFAULTS: Mapping[str, Any] = {
    "engine": "auto",
    "dtype": "bfloat16",
    "max_model_len": 8192,
    "gpu_memory_utilization": 0.9,
    "cpu_kv_cache_gib": 2.0,
    "batch_size": 8,
    "trust_remote_code": False,
}
"""What ``mlflow.pyfunc.load_model(..., model_config={...})`` may change."""
PARAMS: Mapping[str, Any] = {"max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "seed": None}
"""Parameters of ``predict`` and their defaults: greedy, as the checkpoint's accuracy was measured."""

# A data frame's columns and a server's JSON may bring other kinds of number.
_TYPES: Mapping[str, type] = {"max_tokens": int, "temperature": float, "top_p": float, "seed": int}
_ENGINES = ("auto", "vllm", "transformers")
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
_PREFIX_TOKENS = 6

_log = logging.getLogger(__name__)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> "TextGenerator":
    """Called by MLflow with the folder of the model."""
    return TextGenerator(Path(path), {**DEFAULTS, **(model_config or {})})


class Backend(Protocol):
    """What runs the model; rows are prompts as token ids."""

    def generate(self, rows: list[list[int]], params: Mapping[str, Any]) -> list[str]:
        """Return the text that follows each prompt."""


class TextGenerator:
    """A loaded checkpoint.

    Args:
        path: directory in Hugging Face layout.
        settings: values for all of `DEFAULTS`.

    Raises:
        ValueError: an engine that there is not.
        ImportError: the engine that was asked for is not installed.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        from transformers import AutoTokenizer

        if settings["engine"] not in _ENGINES:
            raise ValueError(f"engine {settings['engine']!r} is not known; allowed: {', '.join(_ENGINES)}")
        self._tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=settings["trust_remote_code"])
        self._max_model_len = context_length(path, settings["max_model_len"])
        # vLLM's engine and transformers' generate are made for one caller at a time; a server has several threads.
        self._lock = threading.Lock()
        self.engine, self._backend = _open(path, {**settings, "max_model_len": self._max_model_len}, self._tokenizer)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Return the text that the model generates for each row.

        Args:
            model_input: a data frame, list of records or record, each row with ``prompt`` (text) or ``messages`` (a list of
                ``{"role": ..., "content": ...}``, for models with a chat template); or texts.
            params: any of `PARAMS`: new tokens at most; temperature, 0 being greedy; top-p; seed of the sampling.

        Raises:
            ValueError: a row or parameter that cannot be; nothing was generated then.
        """
        known = {**PARAMS, **{k: v for k, v in (params or {}).items() if v is not None}}
        _check(known)
        known = {name: _TYPES[name](value) if value is not None else None for name, value in known.items()}
        rows = [self._tokens(place, row) for place, row in enumerate(_rows(model_input))]
        for place, row in enumerate(rows):
            if len(row) + known["max_tokens"] > self._max_model_len:
                raise ValueError(
                    f"row {place}: {len(row)} tokens of prompt and max_tokens={known['max_tokens']} are beyond the context of "
                    f"{self._max_model_len} tokens"
                )
        with self._lock:
            return self._backend.generate(rows, known) if rows else []

    def _tokens(self, place: int, row: Mapping[str, Any]) -> list[int]:
        """The prompt's token ids, as vLLM's server makes them of the same request."""
        prompt, messages = row.get("prompt"), row.get("messages")
        # A data frame has NaN where a row lacks a column.
        has_prompt, has_messages = isinstance(prompt, str), hasattr(messages, "__len__") and not isinstance(messages, str)
        if has_prompt == has_messages:
            raise ValueError(
                f'row {place} must have either "prompt", a text, or "messages", a list of {{"role": ..., "content": ...}}; it has '
                f"{'both' if has_prompt else 'neither'}"
            )
        if has_prompt:
            tokens = self._tokenizer(prompt).input_ids
        else:
            if not getattr(self._tokenizer, "chat_template", None):
                raise ValueError(f'row {place} has "messages", and this model\'s tokenizer has no chat template; give "prompt"')
            conversation = [dict(message) for message in messages]  # type: ignore[union-attr]
            text = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
            tokens = self._tokenizer(text, add_special_tokens=False).input_ids
        if not tokens:
            raise ValueError(f"row {place} is empty")
        return list(tokens)


class VllmBackend:
    """vLLM in this process; see `Backend`."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        # In one process it starts in seconds, and ends with it.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM, SamplingParams
        from vllm.platforms import current_platform

        arguments: dict[str, Any] = {"distributed_executor_backend": "uni"}
        if current_platform.is_cpu():
            cache_bytes = int(settings["cpu_kv_cache_gib"] * (1 << 30))
            arguments |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": cache_bytes}
        else:
            arguments["gpu_memory_utilization"] = settings["gpu_memory_utilization"]
        self._params = SamplingParams
        self._llm = LLM(
            model=str(path),
            dtype=settings["dtype"],
            max_model_len=settings["max_model_len"],
            trust_remote_code=settings["trust_remote_code"],
            **arguments,
        )

    def generate(self, rows: list[list[int]], params: Mapping[str, Any]) -> list[str]:
        """See `Backend`."""
        sampling = self._params(**params)
        answers = self._llm.generate([{"prompt_token_ids": row} for row in rows], sampling, use_tqdm=False)
        return [answer.outputs[0].text for answer in answers]


class TransformersBackend:
    """transformers in this process, in static batches; see `Backend`."""

    def __init__(self, path: Path, settings: Mapping[str, Any], tokenizer: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._tokenizer = tokenizer
        self._batch_size = int(settings["batch_size"])
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=getattr(torch, settings["dtype"]),
            device_map={"": self._device},
            trust_remote_code=settings["trust_remote_code"],
        ).eval()
        self._eos = _eos_ids(self._model.generation_config, self._model.config)

    def generate(self, rows: list[list[int]], params: Mapping[str, Any]) -> list[str]:
        """See `Backend`."""
        import torch

        answers: list[str] = []
        with torch.random.fork_rng(), torch.inference_mode():
            if params["seed"] is None:
                torch.seed()
            else:
                torch.manual_seed(params["seed"])
            for start in range(0, len(rows), self._batch_size):
                answers += self._batch(rows[start : start + self._batch_size], params)
        return answers

    def _batch(self, rows: list[list[int]], params: Mapping[str, Any]) -> list[str]:
        import torch
        from transformers import GenerationConfig

        width = max(map(len, rows))
        pad = min(self._eos, default=0)
        sampled: dict[str, Any] = {"do_sample": False}
        if params["temperature"] > 0:
            sampled = {"do_sample": True, "temperature": params["temperature"], "top_p": params["top_p"], "top_k": 0}
        # The model's own generation settings would fill whatever is left open, which vLLM's would not.
        self._model.generation_config = GenerationConfig()
        found = self._model.generate(
            input_ids=torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self._device),
            attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self._device),
            generation_config=GenerationConfig(
                max_new_tokens=params["max_tokens"], eos_token_id=sorted(self._eos) or None, pad_token_id=pad, **sampled
            ),
        )
        return [self._text(row, new) for row, new in zip(rows, found[:, width:].tolist(), strict=True)]

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        """What the tokens add to the prompt. Some tokenizers drop the space before the first token that they decode."""
        tokens = tokens[: next((place for place, token in enumerate(tokens) if token in self._eos), len(tokens))]
        prefix = prompt[-_PREFIX_TOKENS:]
        before: str = self._tokenizer.decode(prefix, skip_special_tokens=True)
        whole: str = self._tokenizer.decode([*prefix, *tokens], skip_special_tokens=True)
        return whole[len(before) :] if whole.startswith(before) else str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def context_length(path: Path, wanted: int) -> int:
    """Return the context in tokens: ``wanted``, capped at the model's own where its configuration names one."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    own = [int(text[field]) for field in _CONTEXT_FIELDS if isinstance(text.get(field), int)]
    return min([int(wanted), *own])


def _open(path: Path, settings: Mapping[str, Any], tokenizer: Any) -> tuple[str, Backend]:
    """The engine that is asked for; for ``auto`` vLLM where it runs, else transformers."""
    wanted = settings["engine"]
    if wanted == "vllm" or (wanted == "auto" and _has_vllm()):
        try:
            return "vllm", VllmBackend(path, settings)
        except Exception as error:
            # More memory is not what transformers would offer.
            if wanted == "vllm" or "memory" in str(error).lower():
                raise
            _log.warning("vLLM does not serve this checkpoint here, transformers does instead: %s", " ".join(str(error).split()))
            gc.collect()
    return "transformers", TransformersBackend(path, settings, tokenizer)


def _has_vllm() -> bool:
    """Whether vLLM is installed and finds a device that it was built for."""
    if find_spec("vllm") is None:
        return False
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        _log.warning("vLLM is installed and cannot be imported: %s", " ".join(str(error).split()))
        return False
    return not current_platform.is_unspecified()


def _rows(model_input: Any) -> Iterable[Mapping[str, Any]]:
    """The input as records."""
    if hasattr(model_input, "to_dict") and hasattr(model_input, "columns"):
        if len(model_input.columns) == 0:
            raise ValueError('the input has neither "prompt" nor "messages", such as {"prompt": "The capital of France is"}')
        records: list[Mapping[str, Any]] = model_input.to_dict(orient="records")
        return records
    if isinstance(model_input, str | Mapping):
        model_input = [model_input]
    return [{"prompt": row} if isinstance(row, str) else row for row in model_input]


def _check(params: Mapping[str, Any]) -> None:
    """Refuse parameters that cannot be."""
    strange = sorted(set(params) - set(PARAMS))
    if strange:
        raise ValueError(f"parameter {strange[0]!r} is not known; allowed: {', '.join(PARAMS)}")
    for name, holds, allowed in (
        ("max_tokens", params["max_tokens"] >= 1, "1 or more"),
        ("temperature", params["temperature"] >= 0, "0 or more"),
        ("top_p", 0 < params["top_p"] <= 1, "above 0, up to 1"),
    ):
        if not holds:
            raise ValueError(f"parameter {name!r} is {params[name]!r}; allowed: {allowed}")


def _eos_ids(*holders: Any) -> Sequence[int]:
    """End-of-sequence ids as the model's files have them, the generation settings first."""
    for holder in holders:
        value = getattr(holder, "eos_token_id", None)
        if value is not None:
            return (value,) if isinstance(value, int) else tuple(value)
    return ()
