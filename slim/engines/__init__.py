"""Engines: what runs a checkpoint. The heavy package of each is imported only when it is opened."""

from slim.engines.base import Completion, Engine, EngineInfo, EngineSpec, GenerationRequest, Score, ScoreRequest
from slim.errors import ConfigError

__all__ = ["Completion", "Engine", "EngineInfo", "EngineSpec", "GenerationRequest", "Score", "ScoreRequest", "open_engine"]


def open_engine(spec: EngineSpec) -> Engine:
    """Load the checkpoint and return an engine that is ready.

    Raises:
        ConfigError: no engine of that name.
        StageError: package missing, out of memory, scheme or architecture not supported, or the start failed.
    """
    match spec.engine:
        case "vllm":
            from slim.engines.vllm import VllmEngine

            return VllmEngine(spec)
        case "transformers":
            from slim.engines.transformers import TransformersEngine

            return TransformersEngine(spec)
        case "fake":
            from slim.engines.fake import FakeEngine

            return FakeEngine(spec)
    raise ConfigError(f"unknown engine {spec.engine!r}; allowed: vllm, transformers")
