"""Evaluation: what accuracy is measured on, and how. The harness is imported only when something is evaluated."""

from slim.evaluate.evaluation import Prepared, evaluate, prepare
from slim.evaluate.fidelity import had_reference, has_reference
from slim.evaluate.parts import Evaluation
from slim.evaluate.reference import REFERENCE_FILE
from slim.evaluate.tasks import TaskFile, check_tasks, leaves, listed, task_digest, versions_that_matter

__all__ = [
    "REFERENCE_FILE",
    "Evaluation",
    "Prepared",
    "TaskFile",
    "check_tasks",
    "evaluate",
    "had_reference",
    "has_reference",
    "leaves",
    "listed",
    "prepare",
    "task_digest",
    "versions_that_matter",
]
