"""What loaded tasks say about themselves."""

from typing import Any

import pytest

from slim.config import TaskEntry
from slim.evaluate.loading import LoadedTask, load_tasks


@pytest.fixture
def loaded() -> dict[str, LoadedTask]:
    entries = [TaskEntry(name=name) for name in ("slim_facts", "slim_completion", "slim_arithmetic")]
    return {task.entry.name: task for task in load_tasks(entries, limit=2, data_dir=None, seed=1)}


def test_multiple_choice_compares_likelihoods_only(loaded: dict[str, LoadedTask]) -> None:
    only = {name: set(task.likelihoods_only) for name, task in loaded.items()}
    assert only == {"slim_facts": {"slim_facts"}, "slim_completion": {"slim_completion"}, "slim_arithmetic": set()}


@pytest.mark.parametrize("what", ["figure", "own scoring", "other request"])
def test_a_task_that_may_ask_more_is_told_more(loaded: dict[str, LoadedTask], what: str) -> None:
    task = loaded["slim_facts"]
    leaf: Any = task.leaves["slim_facts"]
    if what == "figure":
        leaf._metric_fn_list["exact_match"] = None
    elif what == "own scoring":
        leaf.config.process_results = lambda doc, results: {"acc": results[0][1]}
    else:
        leaf.OUTPUT_TYPE = "loglikelihood"
    assert not task.likelihoods_only
