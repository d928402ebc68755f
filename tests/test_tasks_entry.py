"""The list of tasks."""

import json

from click.testing import CliRunner

from entrypoints.tasks import main


def test_names_kinds_and_data_sets() -> None:
    done = CliRunner().invoke(main, ["--pattern", "mmlu"])
    assert done.exit_code == 0
    rows = [line.split() for line in done.output.splitlines()]
    assert ["mmlu", "group", "of", "57"] in rows
    assert ["mmlu_anatomy", "task", "cais/mmlu"] in rows
    found = json.loads(CliRunner().invoke(main, ["--pattern", "gsm8k", "--json"]).output)
    assert {"name": "gsm8k", "kind": "task", "data_set": "openai/gsm8k"} in found


def test_nothing_found_is_wrong_input() -> None:
    done = CliRunner().invoke(main, ["--pattern", "gsm9k"])
    assert done.exit_code == 2
    assert done.stderr == "Error: no task matches 'gsm9k'; near: gsm8k\n"
