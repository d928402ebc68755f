"""What other programs, other versions and broken disks leave in a store: each a change of one configuration's run."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slim.store import TAG, Store

Damage = Callable[[Store, Path, str], Any]
"""Store, its file, and the run to damage."""
LARGEST = 1.7976931348623157e308
"""What MLflow makes of infinity."""
NOBODY = "0" * 32


def tag(name: str, value: str) -> Damage:
    return lambda store, _, run: store.client.set_tag(run, name, value)


def untag(name: str) -> Damage:
    return lambda store, _, run: store.client.delete_tag(run, name)


def sql(statement: str, *values: Any) -> Damage:
    def apply(_: Store, file: Path, run: str) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute(statement.replace("RUN", f"'{run}'"), values)

    return apply


def metric(name: str, value: Any) -> Damage:
    return sql(f"UPDATE latest_metrics SET value = ?, is_nan = 0 WHERE run_uuid = RUN AND key = '{name}'", value)


def log_metric(name: str, value: float) -> Damage:
    return lambda store, _, run: store.client.log_metric(run, name, value)


def param(name: str, value: str | None) -> Damage:
    if value is None:
        return sql(f"DELETE FROM params WHERE run_uuid = RUN AND key = '{name}'")
    return sql(f"UPDATE params SET value = ? WHERE run_uuid = RUN AND key = '{name}'", value)


def column(name: str, value: Any) -> Damage:
    return sql(f"UPDATE runs SET {name} = ? WHERE run_uuid = RUN", value)


def running(store: Store, _: Path, run: str) -> None:
    store.client.update_run(run, status="RUNNING")
    store.client.set_tag(run, TAG.PID, "abc:def")
    store.client.set_tag(run, TAG.HEARTBEAT, "yesterday")


def cut(_: Store, file: Path, __: str) -> None:
    file.write_bytes(file.read_bytes()[:30_000])


def holes(_: Store, file: Path, __: str) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:20_000] + bytes(len(content) - 40_000) + content[-20_000:])


KEPT, ABSENT, ERROR = "kept", "absent", "error"

DAMAGES: dict[str, tuple[Damage, str]] = {
    "stage runs that are no JSON": (tag(TAG.STAGE_RUNS, "{not json"), "no runs by stage"),
    "stage runs in a list": (tag(TAG.STAGE_RUNS, "[1, 2]"), "no runs by stage"),
    "stage runs as a word": (tag(TAG.STAGE_RUNS, '{"profile": "abc"}'), "no runs by stage"),
    "stage runs as numbers": (tag(TAG.STAGE_RUNS, '{"profile": [1, null]}'), "no runs by stage"),
    "stage runs as a number": (tag(TAG.STAGE_RUNS, '{"profile": 5}'), "no runs by stage"),
    "stage runs that are not there": (tag(TAG.STAGE_RUNS, f'{{"profile": ["{NOBODY}"], "evaluate": ["{NOBODY}"]}}'), KEPT),
    "stage runs as paths": (tag(TAG.STAGE_RUNS, '{"profile": ["../../etc/passwd"], "evaluate": ["/etc"]}'), "no runs by stage"),
    "stage runs too deep": (tag(TAG.STAGE_RUNS, "[" * 2000), "no runs by stage"),
    "a comparison that is no JSON": (tag(TAG.COMPARISON, "{"), KEPT),
    "a comparison in a list": (tag(TAG.COMPARISON, "[]"), KEPT),
    "a baseline that is not there": (tag(TAG.BASELINE, NOBODY), KEPT),
    "a baseline as a path": (tag(TAG.BASELINE, "../../etc/passwd"), "no run"),
    "its own baseline": (lambda store, _, run: store.client.set_tag(run, TAG.BASELINE, run), KEPT),
    "a later schema": (tag(TAG.SCHEMA, "99"), "schema '99'"),
    "an earlier schema": (tag(TAG.SCHEMA, "0"), "schema '0'"),
    "a schema in words": (tag(TAG.SCHEMA, "newest"), "schema 'newest'"),
    "no schema": (untag(TAG.SCHEMA), "slim.schema"),
    "no name of the configuration": (untag(TAG.CONFIG), KEPT),
    "a name with markup": (tag(TAG.CONFIG, "<script>alert(1)</script>/[red]x[/red]@vllm"), KEPT),
    "a name with escapes": (tag(TAG.CONFIG, "\x1b[31mred/bf16@vllm"), "its name"),
    "no key": (untag(TAG.KEY), KEPT),
    "an unknown kind": (tag(TAG.KIND, "magic"), ABSENT),
    "empty reasons": (tag(TAG.VALIDITY, ",,,"), "invalid"),
    "an unknown verdict": (tag(f"{TAG.VERDICT}gsm8k", "whatever"), KEPT),
    "running for ever": (running, "incomplete"),
    "a parent that is not there": (tag(TAG.PARENT, NOBODY), KEPT),
    "no params": (sql("DELETE FROM params WHERE run_uuid = RUN"), "no param model"),
    "no model": (param("model", None), "no param model"),
    "no engine": (param("engine", None), "no param engine"),
    "no hardware": (param("hardware", None), "no param hardware"),
    "no precision": (param("precision", None), "no param precision"),
    "an unknown precision": (param("precision", "int3"), KEPT),
    "a path as engine": (param("engine", "/bin/sh"), KEPT),
    "a model's name of 100,000 letters": (param("model", "x" * 100_000), "param model"),
    "no metrics": (sql("DELETE FROM latest_metrics WHERE run_uuid = RUN"), KEPT),
    "all NaN": (sql("UPDATE latest_metrics SET is_nan = 1 WHERE run_uuid = RUN"), KEPT),
    "infinity": (metric("accuracy/mean", LARGEST), "infinite"),
    "minus infinity": (metric("accuracy/mean", -LARGEST), "infinite"),
    "an accuracy of 42": (metric("accuracy/mean", 42.0), "no fraction"),
    "no latency at all": (metric("latency/amortized_b8_ms", 0.0), KEPT),
    "a latency below 0": (metric("latency/amortized_b8_ms", -5.0), "below 0"),
    "words in a metric": (metric("accuracy/mean", "abc"), KEPT),
    "another program's metric": (log_metric("loss", 3.0), KEPT),
    "a metric within a metric": (log_metric("accuracy/a/b/c", 0.3), KEPT),
    "no beginning": (column("start_time", None), "began"),
    "no end": (column("end_time", None), KEPT),
    "an end in the far future": (column("end_time", 99_999_999_999_999_999), "ended"),
    "an end before all time": (column("end_time", -99_999_999_999_999), "ended"),
    "no run's name": (column("name", None), KEPT),
    "another version's database": (sql("UPDATE alembic_version SET version_num = 'ffffffffffff'"), KEPT),
    "no table of runs": (sql("DROP TABLE runs"), ERROR),
    "no table of metrics": (sql("DROP TABLE latest_metrics"), ERROR),
    "a file that is cut off": (cut, ERROR),
    "a file with holes": (holes, ERROR),
}
"""What to damage, and what is to come of the run: left out with these words in the reason, or else one of the above."""
