"""Jobs survive the way to a worker; results in the spool are complete or absent."""

from pathlib import Path

import pytest

from slim.errors import Reason
from slim.jobs import Job, Spool, StageOrder, clean, new_job_dir
from slim.records import Against, Dataset, Failure, ModelSource, StageResult

SOURCE = ModelSource("org/model", "hub", "abc", "hub:abc", "model", None)
RESULT = StageResult(
    "evaluate",
    "k" * 32,
    metrics={"accuracy/mmlu": 0.5},
    params={"dtype": "bfloat16"},
    tags={"slim.validity": "warmup_unsettled"},
    datasets=(Dataset("mmlu", "cais/mmlu", "0123", 100, "evaluation"),),
    started_unix_s=1.0,
    ended_unix_s=2.0,
)


@pytest.mark.parametrize("path", [None, Path("/somewhere/file")])
def test_a_job_is_read_as_written(tmp_path: Path, path: Path | None) -> None:
    orders = (StageOrder("profile", "key", {"requests": 3}),)
    job = Job(
        SOURCE,
        "gptq-int4",
        7,
        tmp_path,
        orders,
        "vllm",
        {"a": 1},
        checkpoint=path,
        against=Against(keep=True, path=path, missing="gone"),
    )
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


@pytest.mark.parametrize("failure", [None, Failure(Reason.OUT_OF_MEMORY, "no room", "last line")])
def test_a_result_is_read_as_written(failure: Failure | None) -> None:
    result = StageResult(**{**RESULT.__dict__, "failure": failure})
    assert StageResult.from_json(result.to_json()) == result


def test_a_finished_draft_is_found_with_its_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with spool.writing(RESULT.key) as draft:
        (draft.artifacts / "samples.parquet").write_text("x")
        assert spool.find(RESULT.key) is None
        draft.finish(RESULT)
    found = spool.find(RESULT.key)
    assert found is not None
    assert found.result == RESULT
    assert [p.name for p in found.artifacts.iterdir()] == ["samples.parquet"]
    assert found.checkpoint is None
    spool.discard(RESULT.key)
    assert spool.find(RESULT.key) is None
    assert list(spool.root.iterdir()) == []


def test_a_draft_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(RuntimeError), spool.writing(RESULT.key):
        raise RuntimeError
    with spool.writing(RESULT.key):
        pass
    assert spool.find(RESULT.key) is None
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_workers_are_swept_and_results_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing(RESULT.key) as draft:
        draft.finish(RESULT)
    (tmp_path / ".abandoned" / "checkpoint").mkdir(parents=True)
    (tmp_path / "shared-0123").write_text("by which nodes see this disk")
    spool.sweep_drafts()
    assert [p.name for p in tmp_path.iterdir()] == [RESULT.key]


def test_secrets_in_the_log_of_a_killed_driver_are_taken_out_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_PASSWORD", "hunter2hunter2")
    spool = Spool(tmp_path)
    killed, ended = new_job_dir(spool), new_job_dir(spool)
    clean(ended)
    for job_dir in (killed, ended):
        (job_dir / "worker.log").write_text("password is hunter2hunter2")
    spool.sweep_drafts()
    assert (killed / "worker.log").read_text() == "password is ***"
    # What was cleaned when its worker ended is not read again at every start.
    assert (ended / "worker.log").read_text() == "password is hunter2hunter2"


def test_a_second_result_of_the_same_key_replaces_the_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for dtype in ("bfloat16", "float16"):
        with spool.writing(RESULT.key) as draft:
            draft.finish(StageResult(**{**RESULT.__dict__, "params": {"dtype": dtype}}))
    found = spool.find(RESULT.key)
    assert found is not None
    assert found.result.params == {"dtype": "float16"}


def test_pieces_of_a_worker_that_was_killed_just_after_it_finished_go_with_its_result(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing(RESULT.key) as draft:
        draft.finish(RESULT)
    with spool.pieces(RESULT.key).writing("task0"):
        pass
    spool.discard(RESULT.key)
    assert spool.pieces(RESULT.key).find("task0") is not None
    spool.done(RESULT.key)
    assert not spool.pieces(RESULT.key).root.exists()
