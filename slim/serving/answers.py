"""What a configuration answers to a few fixed prompts, recorded when it is measured, so that a server can be held against it later.

Greedy, one prompt at a time, no prefix cache; prompts become tokens as in vLLM's OpenAI-compatible server.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slim.engines import Engine, GenerationRequest

FILE = "answers.json"
"""Name of the artifact on evaluate and profile runs."""
MAX_TOKENS = 32
"""New tokens of an answer."""

PROMPTS: tuple[str, ...] = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Water boils at a lower temperature on a mountain because",
)
CHATS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Name three primary colours."},),
    ({"role": "user", "content": "What is 17 plus 25?"},),
)
"""Conversations, for models with a chat template."""


@dataclass(frozen=True)
class Answer:
    """One recorded answer.

    Attributes:
        prompt: text; None for a conversation.
        messages: conversation; None for a text.
        prompt_token_ids: what the engine was given.
        token_ids: what it generated, the end-of-sequence token included.
        text: the same as text, special tokens left out.
        finish_reason: ``stop`` or ``length``.
        engine, engine_version, device: who answered.
        dtype: torch dtype of what is not quantized.
    """

    prompt: str | None
    messages: tuple[dict[str, str], ...] | None
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    engine: str
    engine_version: str
    device: str
    dtype: str

    @property
    def asked(self) -> str:
        """What was asked, as one line."""
        return " ".join((self.prompt or " ".join(m["content"] for m in self.messages or ())).split())


def record(engine: Engine, tokenizer: Any, dtype: str) -> list[Answer]:
    """Ask an open engine.

    Args:
        engine: stays open.
        tokenizer: of the checkpoint.
        dtype: torch dtype that it was opened with.

    Returns:
        One answer a prompt that fits into the context.

    Raises:
        StageError: from the engine.
    """
    info = engine.info
    found = []
    for prompt, messages, tokens in _prompts(tokenizer):
        if not tokens or len(tokens) + MAX_TOKENS > info.max_model_len:
            continue
        request = GenerationRequest(tuple(tokens), MAX_TOKENS, read_prefix_cache=False, token_times=False)
        (answer,) = engine.generate([request], 1)
        said = (answer.tokens, answer.text, answer.finish_reason)
        found.append(Answer(prompt, messages, tuple(tokens), *said, info.engine, info.version, info.device, dtype))
    return found


def write(path: Path, found: Iterable[Answer]) -> None:
    """Write answers as JSON; what an answer does not have is left out."""
    values = [{k: v for k, v in asdict(answer).items() if v is not None} for answer in found]
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> list[Answer]:
    """The inverse of `write`.

    Raises:
        OSError: there is no such file.
        ValueError, TypeError, KeyError: it holds something else.
    """
    return [
        Answer(
            **{
                **{"prompt": None, "messages": None},
                **values,
                "messages": tuple(values["messages"]) if values.get("messages") else None,
                "prompt_token_ids": tuple(values["prompt_token_ids"]),
                "token_ids": tuple(values["token_ids"]),
            }
        )
        for values in json.loads(path.read_text(encoding="utf-8"))
    ]


def _prompts(tokenizer: Any) -> Iterable[tuple[str | None, tuple[dict[str, str], ...] | None, Sequence[int]]]:
    """Each prompt as text or conversation, and as token ids."""
    for prompt in PROMPTS:
        yield prompt, None, tokenizer(prompt).input_ids
    if getattr(tokenizer, "chat_template", None):
        for messages in CHATS:
            text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
            yield None, messages, tokenizer(text, add_special_tokens=False).input_ids
