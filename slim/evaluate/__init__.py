"""Evaluation: what accuracy is measured on, and how. The harness is imported only when something is evaluated."""

from slim.evaluate.evaluation import Evaluation, evaluate
from slim.evaluate.tasks import check_tasks, task_digest, versions_that_matter

__all__ = ["Evaluation", "check_tasks", "evaluate", "task_digest", "versions_that_matter"]
