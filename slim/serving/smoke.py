"""Asks a server what was asked when the configuration was measured, and says where it answers otherwise."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slim.errors import Reason, StageError
from slim.serving.answers import MAX_TOKENS, Answer

# Greedy, and none of what the model's own generation settings may add.
_GREEDY = {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "n": 1}
_ANSWER_S = 600.0

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Sends a body to a path of the server and returns what it answers."""


@dataclass(frozen=True)
class Reply:
    """What a server said to a recorded question.

    Attributes:
        recorded: the answer that it is held against.
        text: what it said.
        token_ids: the same as tokens; None where the server does not tell.
        note: what a person should know about how it was asked; empty when nothing.
    """

    recorded: Answer
    text: str
    token_ids: tuple[int, ...] | None
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Whether it is what was recorded: token by token, or by its text where the server does not tell tokens."""
        return self.text == self.recorded.text if self.token_ids is None else self.token_ids == self.recorded.token_ids

    @property
    def same_tokens(self) -> int | None:
        """Tokens before the first one that differs; None where the server does not tell tokens."""
        if self.token_ids is None:
            return None
        pairs = zip(self.token_ids, self.recorded.token_ids, strict=False)
        return next(
            (place for place, (a, b) in enumerate(pairs) if a != b), min(len(self.token_ids), len(self.recorded.token_ids))
        )


def ask_all(url: str, name: str, recorded: Sequence[Answer], ask: Ask | None = None) -> list[Reply]:
    """Ask a server everything, one request at a time.

    Args:
        url: of the server, without ``/v1``.
        name: of the model that it serves.
        recorded: what was asked before, and what was answered.
        ask: sends a request; None is HTTP, with ``VLLM_API_KEY`` of the environment as the key where that is set.

    Raises:
        StageError: a request fails.
    """
    ask = ask or (lambda path, body: _post(f"{url}{path}", body))
    return [_ask(ask, name, answer) for answer in recorded]


def _ask(ask: Ask, name: str, answer: Answer) -> Reply:
    common = {"model": name, "max_tokens": MAX_TOKENS, "return_token_ids": True, **_GREEDY}
    if answer.messages is None:
        return _reply(answer, ask("/v1/completions", {**common, "prompt": answer.prompt})["choices"][0])
    chat = ask("/v1/chat/completions", {**common, "messages": list(answer.messages)})
    prompt = chat.get("prompt_token_ids")
    if prompt is None or tuple(prompt) == answer.prompt_token_ids:
        return _reply(answer, chat["choices"][0])
    # Some templates write today's date into the prompt: then it is another question.
    again = ask("/v1/completions", {**common, "prompt": list(answer.prompt_token_ids)})
    return _reply(answer, again["choices"][0], "the chat template makes another prompt of it now, so the recorded one was sent")


def _reply(answer: Answer, choice: dict[str, Any], note: str = "") -> Reply:
    text = choice["text"] if "text" in choice else choice["message"].get("content")
    tokens = choice.get("token_ids")
    return Reply(answer, text or "", tuple(tokens) if tokens is not None else None, note)


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    key = os.environ.get("VLLM_API_KEY")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as response:
            values: dict[str, Any] = json.loads(response.read())
            return values
    except urllib.error.HTTPError as error:
        said = " ".join(error.read().decode(errors="replace").split())[:300]
        raise StageError(Reason.ENGINE_CRASH, f"the server refused a request with status {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise StageError(Reason.ENGINE_CRASH, f"the server did not answer a request: {error}") from error
