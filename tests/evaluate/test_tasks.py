"""What tasks there are and what is refused, all without the harness."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slim.config import EvaluateConfig, TaskEntry
from slim.errors import ConfigError
from slim.evaluate import check_tasks, lookup, task_digest, tasks


def config(*entries: TaskEntry | str, **settings: object) -> EvaluateConfig:
    return EvaluateConfig(tasks=tuple(TaskEntry(name=e) if isinstance(e, str) else e for e in entries), **settings)


@pytest.mark.parametrize("name", ["slim_facts", "gsm8k", "mmlu", "mmlu_stem_tasks", "hellaswag", "wikitext"])
def test_known_names_pass(name: str) -> None:
    check_tasks(config(name))


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (config("hellaswg"), ["'hellaswg'", "near: hellaswag"]),
        (config("slim_fact"), ["'slim_fact'", "near: slim_facts"]),
        (config("qqqqqqqqqqqqqq"), ["'qqqqqqqqqqqqqq'", "built in: slim_arithmetic, slim_completion, slim_facts"]),
        (config(TaskEntry(name="slim_facts", num_fewshot=3)), ["slim_facts", "num_fewshot", "0", "3"]),
        (config(TaskEntry(name="truthfulqa_mc1", num_fewshot=3)), ["truthfulqa_mc1", "num_fewshot", "3"]),
        (config(TaskEntry(name="humaneval")), ["humaneval", "code"]),
        (config("gsm8k", "math_word_problems"), ["'gsm8k'", "'math_word_problems'", "name only one"]),
        (config("mmlu_abstract_algebra", "mmlu"), ["'mmlu_abstract_algebra'", "'mmlu'"]),
        (config("slim_facts", data_dir="/no/such/place"), ["evaluate.data_dir", "/no/such/place"]),
        (config("slim_facts", perplexity_text="/no/such/text"), ["/no/such/text", "python-docs"]),
    ],
)
def test_what_cannot_be_run_is_one_line(wrong: EvaluateConfig, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_tasks(wrong)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_text_without_anything_in_it_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    with pytest.raises(ConfigError, match=r"^evaluate.perplexity_text: '.*empty.txt' is empty$"):
        check_tasks(config("slim_facts", perplexity_text=str(empty)))


def test_a_group_stands_for_its_tasks() -> None:
    found = tasks.leaves(tasks.find("mmlu"))
    assert len(found) == 57
    assert "mmlu_abstract_algebra" in found


def test_every_group_and_tag_has_tasks() -> None:
    known = tasks.harness_tasks()
    empty = {name for name, task in known.items() if not tasks.leaves(task)}
    assert empty == {name for name, task in known.items() if task.kind == "group" and not task.settings.get("task")}
    assert len(empty) < 3


def test_groups_written_out_in_place_stand_for_their_tasks() -> None:
    assert len(tasks.leaves(tasks.find("mmlu_generative"))) == 57
    assert tasks.data_sets(config("mmlu_generative")).keys() == {"cais/mmlu"}
    with pytest.raises(
        ConfigError, match=r"'mmlu_generative' and 'mmlu_anatomy_generative' both contain 'mmlu_anatomy_generative'"
    ):
        check_tasks(config("mmlu_generative", "mmlu_anatomy_generative"))


def test_the_digest_follows_the_mirror_of_a_group_written_out_in_place(tmp_path: Path) -> None:
    copy = tmp_path / "cais" / "mmlu" / "test.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    before = task_digest(config("mmlu_generative", data_dir=str(tmp_path)))
    copy.write_text('{"question": ""}')
    assert task_digest(config("mmlu_generative", data_dir=str(tmp_path))) != before


def test_a_task_written_out_in_place_has_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"task": "own", "dataset_path": "some/data"}
    inner = {"group": "inner", "dataset_path": "other/data", "task": [{"task": "second"}, {"task": "slim_known"}]}
    members = ["slim_known", own, inner, {"no": "name"}]
    (tmp_path / "slim_known.yaml").write_text(yaml.safe_dump({"task": "slim_known", "dataset_path": "known/data"}))
    (tmp_path / "slim_all.yaml").write_text(yaml.safe_dump({"group": "slim_all", "task": members[:2] + members[3:]}))
    (tmp_path / "slim_inner.yaml").write_text(yaml.safe_dump({"group": "slim_deep", "task": [inner]}))
    monkeypatch.setattr(tasks, "BUILTIN_DIR", tmp_path)
    assert tasks.leaves(tasks.find("slim_all")) == {"slim_known", "slim_all::own"}
    assert tasks.data_sets(config("slim_all")) == {"known/data": "slim_known", "some/data": "slim_all::own"}
    assert tasks.leaves(tasks.find("slim_deep")) == {"slim_known", "slim_deep::inner::second"}
    # What a group says of its tasks comes before what they say themselves.
    assert tasks.data_sets(config("slim_deep")).keys() == {"other/data"}


def test_groups_stand_for_what_the_harness_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group with members that are more than names, its tasks built without their data."""
    from lm_eval.tasks import _factory
    from lm_eval.tasks._index import Entry, Kind

    class Built:
        def __init__(self, config: dict[str, str]) -> None:
            self.task_name, self.data = config["task"], config.get("dataset_path")

    class Factory(_factory.TaskFactory):  # type: ignore[misc]
        def _build_task(self, entry: Entry, overrides: dict[str, str] | None) -> Built:
            return Built({**known[entry.name].settings, **(overrides or {})})

    monkeypatch.setattr(_factory, "ConfigurableTask", Built)
    monkeypatch.setattr("lm_eval.api.task.Task", Built)
    known = tasks.harness_tasks()
    kinds = {"task": Kind.TASK, "python": Kind.PY_TASK, "group": Kind.GROUP, "tag": Kind.TAG}
    registry = {name: Entry(name, kinds[task.kind], task.path, tags=set(task.members)) for name, task in known.items()}
    groups = {
        name: task
        for name, task in known.items()
        if task.kind == "group" and any(isinstance(member, dict) for member in task.settings.get("task") or ())
    }
    refused, renamed = {"t0_eval", "toksuite_abridged"}, {"openllm"}
    assert len(groups) > 10
    for name in groups.keys() - refused:
        built = Factory().build(registry[name], registry=dict(registry)).get_all_tasks()
        if name not in renamed:  # settings for a whole group make the harness call all of its tasks by that one name
            assert {one.task_name for one in built} == tasks.leaves(groups[name]), name
        assert {one.data for one in built if "/" in (one.data or "")} <= tasks.data_sets(config(name)).keys(), name
    for name in refused:
        with pytest.raises((TypeError, ValueError)):
            Factory().build(registry[name], registry=dict(registry))


def test_without_the_harness_only_builtin_tasks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    check_tasks(config("slim_facts"))
    with pytest.raises(ConfigError, match=r"lm-eval is not installed.*slim_facts"):
        check_tasks(config("gsm8k"))


def test_planning_imports_neither_the_harness_nor_torch() -> None:
    code = (
        "import sys; from slim.config import EvaluateConfig; from slim.evaluate import check_tasks, task_digest;"
        "c = EvaluateConfig(tasks=('slim_facts', 'slim_completion', 'gsm8k')); check_tasks(c); task_digest(c);"
        "print([m for m in ('lm_eval', 'torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digest_follows_what_is_asked(tmp_path: Path) -> None:
    passage = tmp_path / "passage.txt"
    passage.write_text("One text.")
    first = task_digest(config("slim_facts", perplexity_text=str(passage)))
    assert task_digest(config("slim_facts", perplexity_text=str(passage))) == first
    passage.write_text("Another text.")
    assert task_digest(config("slim_facts", perplexity_text=str(passage))) != first
    assert task_digest(config("slim_facts")) != task_digest(config("slim_completion"))


def test_digest_follows_a_builtin_tasks_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = task_digest(config("slim_facts"))
    changed = tmp_path / "slim_facts.yaml"
    changed.write_text((tasks.BUILTIN_DIR / "slim_facts.yaml").read_text() + "description: Answer.\n")
    monkeypatch.setattr(tasks, "BUILTIN_DIR", tmp_path)
    assert task_digest(config("slim_facts")) != before


@pytest.mark.slow
def test_index_is_the_harnesss_own() -> None:
    from lm_eval.tasks import TaskManager

    kinds = {"TASK": "task", "PY_TASK": "python", "GROUP": "group", "TAG": "tag"}
    theirs = {
        name: (kinds[entry.kind.name], entry.yaml_path, frozenset(entry.tags) if entry.kind.name == "TAG" else frozenset())
        for name, entry in TaskManager().task_index.items()
    }
    ours = {name: (task.kind, task.path, task.members) for name, task in tasks.harness_tasks().items()}
    assert ours == theirs


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("mmul", "mmlu"),
        ("MMLU", "mmlu"),
        ("gms8k", "gsm8k"),
        ("gsm8", "gsm8k"),
        ("gsm8k:5", "gsm8k"),
        ("hellasvag", "hellaswag"),
        ("HellaSwag", "hellaswag"),
        ("arc-challenge", "arc_challenge"),
        ("mmlu_abstract_algbra", "mmlu_abstract_algebra"),
        ("wikitext2", "wikitext"),
        ("slim_fakts", "slim_facts"),
    ],
)
def test_the_name_that_was_meant_comes_first(wrong: str, meant: str) -> None:
    known = {**tasks.harness_tasks(), **tasks.builtin_tasks()}
    assert lookup.near(wrong, known)[0] == meant


def test_a_family_is_told_by_its_own_tasks_before_translations() -> None:
    known = {**tasks.harness_tasks(), **tasks.builtin_tasks()}
    assert set(lookup.near("arc", known)[:3]) == {"ai2_arc", "arc_easy", "arc_challenge"}
    assert lookup.near("qqqqqqqqqqqqqq", known) == []


def test_tasks_are_listed_by_pattern() -> None:
    assert [task.name for task in tasks.listed("slim_")] == ["slim_arithmetic", "slim_completion", "slim_facts"]
    names = [task.name for task in tasks.listed("MMLU_*_tasks")]
    assert {"mmlu_stem_tasks", "mmlu_other_tasks"} <= set(names)
    assert all(name.startswith("mmlu_") and name.endswith("_tasks") for name in names)
    assert len(tasks.listed()) > 10_000
    with pytest.raises(ConfigError, match="no task matches 'mmlz'; near: mmlu"):
        tasks.listed("mmlz")
