"""The Optuna study of a frame: its front, its storage, what an update does, and what Optuna makes of it."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna.trial import TrialState

from analysis import pareto
from analysis.constraints import parse_constraint
from analysis.judging import check
from analysis.optuna_study import importances, update
from analysis.optuna_study.storage import opened as open_storage
from slim.errors import UserError
from slim.provenance import ROOT
from tests.analysis.made import ACCURACY, ENERGY, LATENCY, MEMORY, frame_of, points

KEYS = (ACCURACY, LATENCY, MEMORY)
values = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 15), st.just(3)), elements=st.integers(1, 6).map(float) | st.just(np.nan)
)


@pytest.fixture
def frame() -> pd.DataFrame:
    """Twelve configurations, latency decided by the precision alone; one more failed, one is running."""
    rows: list[dict[str, object]] = [
        {
            "model": f"m{model}",
            "precision": precision,
            "quantize.group_size": group,
            "seed": "42",
            ACCURACY: 0.5 + model / 10 - speed / 100,
            LATENCY: 100.0 - 10 * speed,
            MEMORY: 1000.0 * model + group_index,
        }
        for model in (1, 2)
        for speed, precision in enumerate(("bf16", "gptq-int8", "gptq-int4"))
        for group_index, group in enumerate(("64", "128"))
    ]
    rows.append({"status": "FAILED", "failure": "out_of_memory", "model": "m1", "precision": "bnb-nf4", ACCURACY: 0.9})
    rows.append({"status": "RUNNING", "model": "m1"})
    return frame_of(rows)


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return f"sqlite:///{tmp_path / 'study.db'}" if request.param == "sqlite" else tmp_path / "study.log"


def runs(trials: list[optuna.trial.FrozenTrial]) -> list[str]:
    return sorted(trial.user_attrs["run_id"] for trial in trials)


@given(values)
def test_the_best_trials_are_the_front(objectives: np.ndarray) -> None:
    frame = points(objectives, KEYS)
    study = update(frame, KEYS).study
    assert runs(study.best_trials) == sorted(frame.index[pareto.front(frame, KEYS)])


@given(values, st.integers(1, 6), st.integers(1, 6))
def test_the_best_trials_respect_constraints(objectives: np.ndarray, least: int, most: int) -> None:
    frame = points(objectives, KEYS)
    texts = [f"{ACCURACY} >= {least}", f"{MEMORY} <= {most}"]
    study = update(frame, KEYS[:2], texts).study
    met = check(frame, parse_constraint(texts[0])).met & check(frame, parse_constraint(texts[1])).met
    assert runs(study.best_trials) == sorted(frame.index[met][pareto.front(frame[met], KEYS[:2])])


def test_a_trial_is_a_configuration(frame: pd.DataFrame) -> None:
    frame.loc["r3", "validity"] = "warmup_unsettled"
    frame.loc["r4", LATENCY] = np.nan
    done = update(frame, KEYS, [f"{LATENCY} <= 85", f"{ENERGY} <= 3 if measured", "memory/weights_mib <= 10"])
    study = done.study
    assert (done.waiting, done.dropped, done.kept, done.rebuilt) == (("r13",), (f"{ENERGY} <= 3 if measured",), 0, None)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert study.metric_names == list(KEYS)
    by_run = {trial.user_attrs["run_id"]: trial for trial in study.trials}
    assert list(by_run) == list(frame.index[:-1])
    trial = by_run["r3"]
    assert trial.state is TrialState.COMPLETE
    assert trial.values == frame.loc["r3", list(KEYS)].tolist()
    assert trial.params == {"model": "m1", "precision": "gptq-int8", "engine": "vllm", "quantize.group_size": "128"}
    assert trial.distributions["precision"].choices == ("bf16", "gptq-int8", "gptq-int4", "bnb-nf4")
    assert trial.constraints == {f"{LATENCY} <= 85": 5.0, "memory/weights_mib <= 10": 1.0}
    assert trial.user_attrs == {
        "run_id": "r3",
        "configuration": "m/c3@vllm",
        "validity": "warmup_unsettled",
        "unjudged": "memory/weights_mib <= 10",
    }
    assert (by_run["r4"].state, by_run["r4"].values, by_run["r4"].user_attrs["missing"]) == (TrialState.FAIL, None, LATENCY)
    failed = by_run["r12"]
    assert (failed.state, failed.values, failed.user_attrs["failure"]) == (TrialState.FAIL, None, "out_of_memory")
    assert failed.params["quantize.group_size"] == "none"
    assert failed.distributions["quantize.group_size"].choices == ("none", "64", "128")
    assert study.best_trials == []


def test_an_update_adds_what_is_new_and_nothing_twice(frame: pd.DataFrame, storage: str | Path) -> None:
    part = frame.drop(index=["r2", "r9"])
    assert update(part, KEYS, storage=storage, name="mine").added == tuple(part.index[:-1])
    numbers = {t.user_attrs["run_id"]: t.number for t in update(part, KEYS, storage=storage, name="mine").study.trials}
    done = update(frame, KEYS, storage=storage, name="mine")
    assert (done.added, done.kept, done.rebuilt) == (("r2", "r9"), 11, None)
    assert {t.user_attrs["run_id"]: t.number for t in done.study.trials if t.user_attrs["run_id"] in numbers} == numbers
    again = update(frame, KEYS, storage=storage, name="mine")
    assert (again.added, again.kept, again.rebuilt) == ((), 13, None)
    opened = optuna.load_study(study_name="mine", storage=open_storage(storage))
    assert runs(opened.trials) == sorted(frame.index[:-1])


def test_what_cannot_be_added_makes_the_study_anew(frame: pd.DataFrame, storage: str | Path) -> None:
    update(frame, KEYS, storage=storage)
    less = frame.drop(index=["r2"])
    assert update(less, KEYS, storage=storage).rebuilt == "1 of its runs are not there any more"
    changed = less.copy()
    changed.loc["r3", LATENCY] = 1.0
    changed.loc["r13", "status"] = "FINISHED"
    done = update(changed, KEYS, storage=storage)
    assert done.rebuilt == "1 of its runs have other results, parameters or limits now"
    assert {t.user_attrs["run_id"]: t.values for t in done.study.trials if t.values}["r3"][1] == 1.0
    assert runs(done.study.trials) == sorted(changed.index)
    limited = update(changed, KEYS, [f"{LATENCY} <= 80"], storage=storage)
    assert limited.rebuilt == "11 of its runs have other results, parameters or limits now"
    assert limited.study.user_attrs["slim.constraints"] == [f"{LATENCY} <= 80"]
    grown = pd.concat([changed, frame_of([{"run_id": "new", "model": "m3", **dict.fromkeys(KEYS, 1.0)}])])
    assert update(grown, KEYS, [f"{LATENCY} <= 80"], storage=storage).rebuilt == "parameters have other choices now"
    assert optuna.get_all_study_names(open_storage(storage)) == ["slim"]


def test_an_update_that_was_cut_off_is_completed(
    frame: pd.DataFrame, storage: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> None:
        study.add_trial(trials[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "add_trials", cut_off)
        with pytest.raises(KeyboardInterrupt):
            update(frame, KEYS, storage=storage)
    done = update(frame, KEYS, storage=storage)
    assert (done.kept, len(done.added)) == (1, 12)
    assert runs(done.study.trials) == sorted(frame.index[:-1])


def test_other_peoples_studies_and_other_questions_are_left_alone(frame: pd.DataFrame, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    theirs = optuna.create_study(storage=url, study_name="theirs", directions=["minimize"] * 3)
    theirs.add_trial(optuna.trial.create_trial(values=[1, 2, 3]))
    with pytest.raises(UserError, match="study 'theirs' was not made from a tracking store"):
        update(frame, KEYS, storage=url, name="theirs")
    empty = optuna.create_study(storage=url, study_name="empty", directions=["minimize"])
    with pytest.raises(UserError, match="study 'empty' was not made from a tracking store"):
        update(frame, KEYS, storage=url, name="empty")
    assert empty.directions == optuna.load_study(storage=url, study_name="empty").directions
    blank = optuna.create_study(storage=url, study_name="blank", directions=["maximize", "minimize", "minimize"])
    assert update(frame, KEYS, storage=url, name="blank").study._study_id == blank._study_id
    update(frame, KEYS, storage=url)
    with pytest.raises(UserError, match=f"study 'slim' has the objectives {', '.join(KEYS)}; allowed"):
        update(frame, KEYS[:2], storage=url)
    assert len(optuna.load_study(storage=url, study_name="theirs").trials) == 1


def test_a_wrong_storage_is_one_line(frame: pd.DataFrame, tmp_path: Path) -> None:
    for storage, named in {
        f"sqlite:///{tmp_path / 'absent' / 'study.db'}": "cannot be opened",
        "nosuch://me:secret@host/study": r"storage 'nosuch://\*\*\*@host/study' cannot be opened",
        tmp_path / "absent" / "study.log": "cannot be opened",
        "study.txt": "neither a database nor a journal; allowed: a database URL such as sqlite:///study.db",
    }.items():
        with pytest.raises(UserError, match=named) as caught:
            update(frame, KEYS, storage=storage)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="2 kinds of hardware"):
        update(frame.assign(hardware=["A"] * 7 + ["B"] * 7), KEYS)


def test_importances_name_the_parameter_that_decides(frame: pd.DataFrame) -> None:
    study = update(frame, KEYS).study
    found = {each.objective: each for each in importances(study)}
    assert list(found) == list(KEYS)
    for each in found.values():
        assert each.missing is None
        assert each.trials == 12
        assert sum(each.shares.values()) == pytest.approx(1)
        assert set(each.shares) == {"model", "precision", "quantize.group_size"}
    assert next(iter(found[LATENCY].shares)) == "precision"
    assert next(iter(found[MEMORY].shares)) == "model"
    assert next(iter(found[ACCURACY].shares)) == "model"


def test_original_weights_count_for_the_importance_of_settings(frame: pd.DataFrame) -> None:
    finished = frame.iloc[:12].copy()
    finished.loc[finished["precision"] == "bf16", "quantize.group_size"] = None
    study = update(finished, KEYS).study
    assert {t.params["quantize.group_size"] for t in study.trials if t.params["precision"] == "bf16"} == {"none"}
    found = importances(study)
    assert all(each.trials == 12 and "quantize.group_size" in each.shares for each in found)
    assert optuna.importance.get_param_importances(study, target=lambda t: t.values[1]).keys() >= {"quantize.group_size"}


def test_importances_say_what_they_need(frame: pd.DataFrame) -> None:
    few = importances(update(frame.iloc[:9], KEYS).study)
    assert {each.missing for each in few} == {"importances need 10 completed configurations, there are 9"}
    assert all(not each.shares for each in few)
    same = frame.iloc[:12].assign(model="m", precision="bf16", **{"quantize.group_size": "64"})
    assert importances(update(same, KEYS).study)[0].missing == "importances need a parameter that differs between configurations"


@pytest.mark.filterwarnings("ignore")
def test_optunas_plots_draw_it(frame: pd.DataFrame, storage: str | Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as plots

    study = update(frame, KEYS[:2], [f"{MEMORY} <= 2000"], storage=storage).study
    axes = plots.plot_pareto_front(study)
    assert (axes.get_xlabel(), axes.get_ylabel()) == KEYS[:2]
    drawn = np.vstack([collection.get_offsets() for collection in axes.collections])
    assert len(drawn) == 12
    assert {tuple(trial.values) for trial in study.best_trials} <= {tuple(point) for point in drawn.tolist()}
    assert plots.plot_parallel_coordinate(study, target=lambda t: t.values[1], target_name=LATENCY).get_title()
    bars = plots.plot_param_importances(study, target=lambda t: t.values[1], target_name=LATENCY)
    assert "precision" in [label.get_text() for label in bars.get_yticklabels()]
    plt.close("all")


def test_optuna_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, analysis.optuna_study, analysis.recommend; print([m for m in ('optuna', 'sqlalchemy', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "optuna" not in done.stdout


def test_nothing_is_said_and_optunas_own_logging_stays(frame: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    importances(update(frame, KEYS).study)
    assert optuna.logging.get_verbosity() == before
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
