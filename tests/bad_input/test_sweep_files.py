"""Sweep files that say something impossible, hostile or damaged."""

from pathlib import Path

import pytest

from tests.bad_input.told import everything_below, invoke, one_line

GOOD = "models: [{tiny}]\nprecisions: [bf16@transformers]\nevaluate: {tasks: [slim_facts]}\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)

FILES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["mapping", "NoneType"]),
    "a comment": ("# nothing\n", ["mapping"]),
    "a list": ("[1, 2]", ["mapping", "list"]),
    "a word": ("demo", ["mapping", "str"]),
    "a number": ("42", ["mapping", "int"]),
    "two documents": ("a: 1\n---\nb: 2\n", ["not YAML"]),
    "cut off": ("models: [embedded", ["not YAML"]),
    "tabs": ("models:\n\t- embedded\n", ["not YAML"]),
    "not text": (b"\xff\xfe\x00\x01models", ["not YAML"]),
    "latin-1": ("name: caf\u00e9\n".encode("latin-1"), ["not YAML"]),
    "a NUL": (b"models: [a\x00b]\nprecisions: [bf16]\n", ["not YAML"]),
    "a pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin", ["not YAML"]),
    "Python code": ("models: !!python/object/apply:os.system ['echo run']\n", ["not YAML", "python/object/apply"]),
    "a Python name": ("name: !!python/name:os.system\n", ["not YAML"]),
    "an unknown tag": ("name: !include /etc/passwd\n", ["not YAML", "!include"]),
    "a bomb": (BOMB + "models: [embedded]\n", ["alias"]),
    "a loop": ("models: &m [*m]\nprecisions: [bf16]\n", ["alias"]),
    "deep": ("models: " + "[" * 5000 + "]" * 5000 + "\n", ["not YAML", "nested"]),
    "a key twice": (GOOD + "seed: 1\nseed: 2\n", ["seed", "twice"]),
    "an inner key twice": (GOOD + "profile: {requests: 5, requests: 6}\n", ["requests", "twice"]),
    "a number as key": (GOOD + "1: 2\n", ["1", "unknown key"]),
    "a list as key": (GOOD + "? [a, b]\n: 2\n", ["not YAML"]),
    "null as key": (GOOD + "null: 2\n", ["None", "unknown key"]),
    "a number as inner key": (GOOD + "profile: {7: 2}\n", ["profile.7", "unknown key"]),
    "no models": ("precisions: [bf16]\n", ["models", "missing"]),
    "models null": ("models: null\nprecisions: [bf16]\n", ["models", "None"]),
    "models as a word": ("models: embedded\nprecisions: [bf16]\n", ["models", "embedded"]),
    "models as a mapping": ("models: {id: embedded}\nprecisions: [bf16]\n", ["models"]),
    "a model that is a number": ("models: [7]\nprecisions: [bf16]\n", ["models.0", "7"]),
    "a model that is a list": ("models: [[a]]\nprecisions: [bf16]\n", ["models.0"]),
    "an empty model": ("models: ['']\nprecisions: [bf16]\n", ["models.0"]),
    "a blank model": ("models: ['  ']\nprecisions: [bf16]\n", ["models.0"]),
    "a model with an unknown key": ("models: [{id: embedded, rev: main}]\nprecisions: [bf16]\n", ["rev", "revision"]),
    "code allowed by a word": ("models: [{id: embedded, trust_remote_code: 'yes'}]\nprecisions: [bf16]\n", ["trust_remote_code"]),
    "code allowed by a number": ("models: [{id: embedded, trust_remote_code: 1}]\nprecisions: [bf16]\n", ["trust_remote_code"]),
    "a model with a line break": ('models: ["a\\nb"]\nprecisions: [bf16]\n', ["models.0", "control"]),
    "a model with a NUL": ('models: ["./a\\0b"]\nprecisions: [bf16]\n', ["models.0", "control"]),
    "a model of nobody's home": ("models: ['~nobody-of-that-name/model']\nprecisions: [bf16]\n", ["~nobody-of-that-name/model"]),
    "a number of 5000 digits": (GOOD + f"seed: {'9' * 5000}\n", ["not YAML"]),
    "a day that is none": (GOOD + "name: 2026-13-45\n", ["not YAML", "month"]),
    "half a character": (GOOD + 'name: "\\ud800"\n', ["name", "unicode"]),
    "half a character in a prompt": (
        GOOD.replace("]}", '], apply_chat_template: true, system_prompt: "\\ud800"}'),
        ["system_prompt", "unicode"],
    ),
    "a very long model": (f"models: ['{'x' * 5000}']\nprecisions: [bf16]\n", ["models.0", "200"]),
    "a precision null": ("models: [embedded]\nprecisions: [null]\n", ["precisions.0"]),
    "a precision as a path": ("models: [embedded]\nprecisions: ['../bf16']\n", ["../bf16", "allowed"]),
    "an engine as a path": ("models: [embedded]\nprecisions: ['bf16@/bin/sh']\n", ["/bin/sh", "allowed"]),
    "a seed below 0": (GOOD + "seed: -1\n", ["seed", "-1"]),
    "a huge seed": (GOOD + "seed: 99999999999999999999\n", ["seed", "4294967295"]),
    "a seed that is true": (GOOD + "seed: true\n", ["seed", "True"]),
    "a seed with a fraction": (GOOD + "seed: 4.5\n", ["seed", "4.5"]),
    "a seed in words": (GOOD + "seed: forty-two\n", ["seed", "forty-two"]),
    "repeats without end": (GOOD + "repeats: 1000000000\n", ["repeats", "1000"]),
    "no repeats": (GOOD + "repeats: 0\n", ["repeats", "0"]),
    "requests without end": (GOOD + "profile: {requests: 100000000000000000000}\n", ["profile.requests"]),
    "a list without end": (GOOD + "profile: {concurrency: [1, 1000000000000]}\n", ["profile.concurrency.1"]),
    "concurrency as a word": (GOOD + "profile: {concurrency: many}\n", ["profile.concurrency", "many"]),
    "concurrency as a number": (GOOD + "profile: {concurrency: 8}\n", ["profile.concurrency", "8"]),
    "NaN": (GOOD + "profile: {cooldown_s: .nan}\n", ["profile.cooldown_s", "finite"]),
    "infinity": (GOOD + "profile: {cooldown_s: .inf}\n", ["profile.cooldown_s", "finite"]),
    "a number beyond doubles": (GOOD + "profile: {peak_bandwidth_gb_s: 1.0e+999}\n", ["peak_bandwidth_gb_s", "finite"]),
    "infinite rates": (GOOD + "profile: {load: {rates_per_s: [.inf]}}\n", ["rates_per_s"]),
    "a time limit of 0": (GOOD + "timeouts: {profile_s: 0}\n", ["timeouts.profile_s", "0"]),
    "a time limit without end": (GOOD + "timeouts: {profile_s: .inf}\n", ["timeouts.profile_s", "finite"]),
    "a date as name": (GOOD + "name: 2026-11-01\n", ["name", "2026"]),
    "a section as a list": (GOOD + "profile: [1]\n", ["profile"]),
    "a section as a word": (GOOD + "profile: fast\n", ["profile", "fast"]),
    "a section that must be there": (GOOD + "quantize: null\n", ["quantize"]),
    "an experiment above": (GOOD + "experiment: ..\n", ["experiment", "'..'"]),
    "an experiment with a line break": (GOOD + 'experiment: "a\\nb"\n', ["experiment", "control"]),
    "an experiment that is empty": (GOOD + "experiment: ''\n", ["experiment"]),
    "a name that colours terminals": (GOOD + 'name: "\\e[31mred"\n', ["name", "control"]),
    "a task as a path": (GOOD.replace("slim_facts", "../../etc/passwd"), ["../../etc/passwd"]),
    "a task as a file": (GOOD.replace("slim_facts", "/tmp/task.yaml"), ["/tmp/task.yaml"]),
    "a task twice": (GOOD.replace("[slim_facts]", "[slim_facts, slim_facts]"), ["slim_facts", "twice"]),
    "a task that is a number": (GOOD.replace("slim_facts", "7"), ["evaluate.tasks.0", "7"]),
    "a task with an unknown key": (GOOD.replace("slim_facts", "{name: slim_facts, shots: 3}"), ["shots", "num_fewshot"]),
    "no task": (GOOD.replace("slim_facts", ""), ["tasks is empty"]),
    "shots below 0": (GOOD.replace("slim_facts", "{name: slim_facts, num_fewshot: -1}"), ["num_fewshot", "-1"]),
    "a group size of 0": (GOOD + "quantize: {group_size: 0}\n", ["quantize.group_size", "0"]),
    "a layer pattern that is none": (GOOD + "quantize: {ignore: ['re:[']}\n", ["quantize.ignore", "re:["]),
    "a directory as text": (GOOD + "quantize: {calibration: /}\n", ["quantize.calibration", "'/'"]),
    "a NUL in a text": (GOOD + 'quantize: {calibration: "a\\0b"}\n', ["quantize.calibration", "control"]),
    "a data set above": (GOOD + "quantize: {calibration: 'org/..'}\n", ["quantize.calibration", "org/.."]),
    "prompts above": (GOOD + "profile: {prompts: {source: 'a/..', data_dir: /}}\n", ["profile.prompts.source", "a/.."]),
    "an unknown attention": (GOOD + "engines: {transformers: {attention: flashy}}\n", ["attention", "flashy", "sdpa"]),
    "more than all the GPU": (GOOD + "engines: {vllm: {gpu_memory_utilization: 1.5}}\n", ["gpu_memory_utilization", "1.5"]),
    "an unknown engine's options": (GOOD + "engines: {sglang: {}}\n", ["sglang", "vllm"]),
    "failing otherwise": (GOOD + "on_failure: explode\n", ["on_failure", "explode", "continue"]),
    "a directory as interpreter": (GOOD + "interpreters: {measure: /}\n", ["'/'"]),
    "a program that is no Python": (GOOD + "interpreters: {measure: /bin/ls}\n", ["/bin/ls"]),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.parametrize("case", FILES)
def test_wrong_sweep_file(home: Path, tiny_model: Path, case: str) -> None:
    content, named = FILES[case]
    file = home / "sweep.yaml"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content.replace("{tiny}", str(tiny_model)), encoding="utf-8")
    arguments = ["--config", str(file), "--tracking-uri", f"sqlite:///{home}/mlflow.db", "--dry-run"]
    # The directory bears the case's name, which is not what is to be told.
    told = one_line(invoke("sweep", arguments)).replace(str(home), "")
    for part in named:
        assert part in told
    assert everything_below(home) <= {"sweep.yaml", "home/hashes.json"}
