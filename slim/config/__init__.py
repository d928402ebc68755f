"""What a sweep file says, validated; nothing is looked up (no files, no network, no environment).

`SweepConfig.load` is the one function here that opens a file, and only the sweep file itself.
"""

from slim.config.profile import BatchConfig, EnergyConfig, LoadConfig, ProfileConfig, PromptsConfig, WarmupConfig
from slim.config.section import Section
from slim.config.sections import (
    ComparisonConfig,
    EnginesConfig,
    EvaluateConfig,
    ExecutorConfig,
    InterpretersConfig,
    ModelEntry,
    PrecisionEntry,
    QuantizeConfig,
    TaskEntry,
    TimeoutsConfig,
    TransformersOptions,
    VllmOptions,
)
from slim.config.sweep import SweepConfig, parse_precision

__all__ = [
    "BatchConfig",
    "ComparisonConfig",
    "EnergyConfig",
    "EnginesConfig",
    "EvaluateConfig",
    "ExecutorConfig",
    "InterpretersConfig",
    "LoadConfig",
    "ModelEntry",
    "PrecisionEntry",
    "ProfileConfig",
    "PromptsConfig",
    "QuantizeConfig",
    "Section",
    "SweepConfig",
    "TaskEntry",
    "TimeoutsConfig",
    "TransformersOptions",
    "VllmOptions",
    "WarmupConfig",
    "parse_precision",
]
