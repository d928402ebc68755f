"""Evaluation: what accuracy is measured on, and how. The harness is imported only when something is evaluated."""

from slim.evaluate.evaluation import Evaluation, evaluate
from slim.evaluate.fidelity import Against, had_reference, has_reference
from slim.evaluate.reference import REFERENCE_FILE
from slim.evaluate.tasks import check_tasks, task_digest, versions_that_matter

__all__ = [
    "REFERENCE_FILE",
    "Against",
    "Evaluation",
    "check_tasks",
    "evaluate",
    "had_reference",
    "has_reference",
    "task_digest",
    "versions_that_matter",
]
