"""Evaluation: what accuracy is measured on, and how. The harness is imported only when something is evaluated."""

from slim.evaluate.evaluation import Prepared, evaluate, prepare
from slim.evaluate.parts import Evaluation
from slim.evaluate.tasks import TaskFile, check_tasks, leaves, listed, task_digest, versions_that_matter

__all__ = [
    "Evaluation",
    "Prepared",
    "TaskFile",
    "check_tasks",
    "evaluate",
    "leaves",
    "listed",
    "prepare",
    "task_digest",
    "versions_that_matter",
]
