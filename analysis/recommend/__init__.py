"""Which configuration to deploy: what is asked for, the choice, and what it rests on."""

from analysis.recommend.choose import recommend
from analysis.recommend.deployments import DEPLOYMENTS, Request, named, request
from analysis.recommend.records import (
    Excluded,
    Nearest,
    Option,
    Recommendation,
    RunnerUp,
    Slack,
    WeightRange,
)
from analysis.recommend.words import basis, beside, meaning, runner_up, sentences

__all__ = [
    "DEPLOYMENTS",
    "Excluded",
    "Nearest",
    "Option",
    "Recommendation",
    "Request",
    "RunnerUp",
    "Slack",
    "WeightRange",
    "basis",
    "beside",
    "meaning",
    "named",
    "recommend",
    "request",
    "runner_up",
    "sentences",
]
