"""The two ways into vLLM's engine that are used here. Imported by `slim.engines.vllm` alone, which prepares the process.

Through the front end come tokens, detokenized and checked for stop texts. For log-probabilities it is left out: it would
make Python objects of every row of a prompt, wanted or not, and prepare each request for what is not asked of it, which
on a GPU takes longer than the model. The engine's core takes and gives the messages that the front end of any vLLM
exchanges with it (``EngineCoreRequest``, ``EngineCoreOutput``).
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from vllm.v1.engine import EngineCoreRequest


class Port(Protocol):
    """A way to put requests to the engine."""

    def add(self, name: str, prompt: Sequence[int], params: Any) -> Any:
        """Hand a request over and return the scheduler's own record of it, which outlives the request."""

    def step(self) -> Iterable[Any]:
        """Step the engine; each of the outputs has a ``request_id``, and is ``finished`` or is followed by another."""

    def abort(self, names: list[str]) -> None:
        """Forget requests."""


class FrontEnd:
    """Requests for text; outputs are vLLM's ``RequestOutput``.

    Args:
        engine: vLLM's ``LLMEngine``, in this process.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._known = engine.engine_core.engine_core.scheduler.requests

    def add(self, name: str, prompt: Sequence[int], params: Any) -> Any:
        """See `Port`."""
        return self._known.get(self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params))

    def step(self) -> Iterable[Any]:
        """See `Port`."""
        outputs: list[Any] = self._engine.step()
        return outputs

    def abort(self, names: list[str]) -> None:
        """See `Port`."""
        self._engine.abort_request(names)


class Core:
    """Requests for log-probabilities; outputs are vLLM's ``EngineCoreOutput``.

    Args:
        engine: vLLM's ``LLMEngine``, in this process.
    """

    def __init__(self, engine: Any) -> None:
        self._core = engine.engine_core
        self._known = engine.engine_core.engine_core.scheduler.requests

    def add(self, name: str, prompt: Sequence[int], params: Any) -> Any:
        """See `Port`."""
        self._core.add_request(
            EngineCoreRequest(
                request_id=name,
                prompt_token_ids=list(prompt),
                mm_features=None,
                sampling_params=params,
                pooling_params=None,
                arrival_time=time.time(),
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            )
        )
        return self._known.get(name)

    def step(self) -> Iterable[Any]:
        """See `Port`."""
        outputs: list[Any] = self._core.get_output().outputs
        return outputs

    def abort(self, names: list[str]) -> None:
        """See `Port`."""
        self._core.abort_requests(names)
