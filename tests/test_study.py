"""Studies end to end, on the printed figures of a published study in a real store: entry points, the run, its files."""

import html
import json
import re
from pathlib import Path

import optuna
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from analysis import evidence, published, report, study
from analysis.filters import Filters
from analysis.recommend import sentences
from analysis.study import Question
from entrypoints import report as report_entry
from entrypoints import study as study_entry
from slim.errors import UserError
from slim.store import TAG, Store, keep
from tests.analysis.conftest import logging_to

KEPT = Question(deployments=("latency-critical", "memory-constrained"), draws=10)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with the configurations of SLiM-Eval."""
    keep(store, published.runs("slim_eval"))
    return store


def invoke(entry: object, store: Store, *words: str) -> Result:
    arguments = ["--tracking-uri", store.tracking_uri, "--experiment", store.experiment, *words]
    return CliRunner().invoke(entry, arguments)  # type: ignore[arg-type]


def studies(store: Store) -> list[str]:
    return [run.run_id for run in store.search(f"tags.`{TAG.KIND}` = 'study'")]


def test_a_study_is_a_run_with_its_answers_and_evidence(filled: Store, tmp_path: Path) -> None:
    before = {run.run_id for run in filled.search("")}
    result = invoke(study_entry.main, filled, "--constraints", "accuracy/gsm8k >= 0.9 * baseline")
    assert result.exit_code == 0, result.output
    (run_id,) = studies(filled)
    assert {run.run_id for run in filled.search("")} == before | {run_id}
    run = filled.get(run_id)
    assert run.status == "FINISHED"
    assert run.params["study.configurations"] == "13"
    assert run.params["study.constraints"] == "accuracy/gsm8k >= 0.9 * baseline"
    assert f"Study {run_id}" in result.output
    assert run.tags[TAG.NOTE].count("\n") == 4

    files = {f.path for f in MlflowClient(filled.tracking_uri).list_artifacts(run_id)}
    names = {"report.html", "recommendations.json", "configurations.csv", "left_out.csv", "front.csv", "optuna.log"}
    assert files == names | {"figures", "tables"}
    answers = json.loads(filled.artifact(run, evidence.RECOMMENDATIONS, tmp_path).read_text())
    chosen = {one["request"]: one["choice"] for one in answers["recommendations"]}
    for name, choice in chosen.items():
        assert run.tags.get(f"{TAG.RECOMMENDED}{name}") == (choice and choice["run_id"])
    # By hand: of those with 98 % of their baseline's accuracy and 90 % of its GSM8K, Llama at int8 has the least latency.
    assert chosen["latency-critical"]["configuration"] == "llama-3.2-3b-instruct/gptq-int8@vllm"
    front = pd.read_csv(filled.artifact(run, "front.csv", tmp_path), index_col="run_id")
    assert set(front.index[front["rank"] == 0]) == set(answers["front"])
    assert front["probability"].between(0, 1).all()
    page = filled.artifact(run, evidence.REPORT, tmp_path).read_text()
    assert answers["configurations"][run.tags[f"{TAG.RECOMMENDED}balanced"]] in page


def test_the_optuna_journal_holds_the_front(filled: Store, tmp_path: Path) -> None:
    found = study.make(filled)
    evidence.write(found, tmp_path / "out")
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "out" / evidence.OPTUNA))
    loaded = optuna.load_study(study_name="slim", storage=optuna.storages.JournalStorage(backend))
    assert found.front is not None
    assert {trial.user_attrs["run_id"] for trial in loaded.best_trials} == set(found.front.run_ids)


def test_a_dry_run_writes_nothing(filled: Store) -> None:
    result = invoke(study_entry.main, filled, "--dry-run", "--models", "Qwen/Qwen2.5-3B-Instruct")
    assert result.exit_code == 0, result.output
    assert "3 configurations of 1 model on A100-80GB" in result.output
    assert studies(filled) == []


def test_a_report_goes_to_a_directory(filled: Store, tmp_path: Path) -> None:
    result = invoke(report_entry.main, filled, "--out", str(tmp_path / "out"), "--formats", "svg")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert {p.suffix for p in (tmp_path / "out" / "figures").iterdir()} == {".svg"}
    assert studies(filled) == []


def test_a_report_replaces_an_earlier_one_of_another_question(filled: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def reported(*words: str) -> set[str]:
        result = invoke(report_entry.main, filled, "--out", str(out), *words)
        assert result.exit_code == 0, result.output
        return {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}

    first = reported("--formats", "svg,png")
    assert {"front.csv", "tables/by_model.md", "figures/speedup.png"} <= first
    for name in ("notes.txt", "figures/mine.png", "tables/mine.csv"):
        (out / name).write_text("mine")
    asked = ["--objectives", "accuracy/gsm8k,latency/amortized_b8_ms", "--models", "Qwen/Qwen2.5-3B-Instruct", "--formats", "svg"]
    second = reported(*asked)
    assert {"notes.txt", "figures/mine.png", "tables/mine.csv", "front.csv", "optuna.log"} <= second
    assert not {"tables/by_model.md", "tables/by_model.tex", "figures/speedup.png"} & second
    backend = optuna.storages.journal.JournalFileBackend(str(out / evidence.OPTUNA))
    loaded = optuna.load_study(study_name="slim", storage=optuna.storages.JournalStorage(backend))
    assert loaded.metric_names == ["accuracy/gsm8k", "latency/amortized_b8_ms"]
    third = reported("--objectives", "accuracy/gsm8k", "--formats", "svg")
    assert not {"front.csv", "optuna.log"} & third


def test_a_report_that_fails_leaves_the_earlier_one(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, out = study.make(filled, KEPT), tmp_path / "out"
    evidence.write(found, out, formats=("svg",))

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    before = content()
    with monkeypatch.context() as patched:
        patched.setattr(report, "build", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evidence.write(study.make(filled, Question(draws=10)), out, formats=("svg",))
    assert content() == before
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    with pytest.raises(UserError, match=r"--out: .*report.html' is a directory"):
        evidence.write(found, out, formats=("svg",))


def test_published_figures_are_put_into_the_store_once_and_by_studies_only(store: Store, tmp_path: Path) -> None:
    asked = ["--tracking-uri", store.tracking_uri, "--published", "slim_eval"]
    for entry, *words in (
        (study_entry.main, "--dry-run"),
        (report_entry.main, "--out", str(tmp_path / "out"), "--formats", "svg"),
    ):
        result = CliRunner().invoke(entry, [*asked, *words])
        assert result.exit_code == 0, result.output
        assert (
            "latency-critical: llama-3.2-3b-instruct/gptq-int8@vllm" in result.output
            or (tmp_path / "out" / "report.html").exists()
        )
        assert Store.open(store.tracking_uri, published.EXPERIMENT, create=False) is None
        assert not list((tmp_path / "home").rglob("*.parquet"))
    for _ in range(2):
        result = CliRunner().invoke(study_entry.main, asked)
        assert result.exit_code == 0, result.output
    kept = Store.open(store.tracking_uri, published.EXPERIMENT, create=False)
    assert kept is not None
    assert len(kept.configurations()) == 13


def test_every_model_has_an_answer_of_its_own(filled: Store) -> None:
    found = study.make(filled)
    assert set(found.by_model) == set(found.models)
    for model, answers in found.by_model.items():
        for answer in answers:
            assert answer.choice is None or found.frame.loc[answer.choice.run_id, "model"] == model
    table = evidence.all_tables(found)["by_model"]
    assert len(table.rows) == 5


def test_exact_figures_are_not_called_sure(filled: Store) -> None:
    found = study.make(filled, Question(draws=10))
    assert all(
        evidence.confidence(found, one) in ("", "Nothing is known of the noise of these figures.")
        for one in found.recommendations
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--objectives", "acuracy/mean"], "near: accuracy/mean"),
        (["--objectives", "accuracy/mean,accuracy/mean"], "twice"),
        (["--constraints", "accuracy/mean > 1"], "cannot be read"),
        (["--deployments", "cheap"], "allowed: accuracy-critical"),
        (["--weights", "1,2"], "name these too"),
        (["--objectives", "accuracy/mean,size/checkpoint_gb", "--weights", "1,x"], "not numbers"),
        (["--models", "nobody/nothing"], "filter models"),
        (["--since", "yesterday"], "no date"),
        (["--group", "7"], "allowed: 1 to 1"),
        (["--published", "nothing"], "allowed: slim_eval"),
        (["--published", "slim_eval"], "--experiment: 'slim' cannot be with --published"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(filled: Store, words: list[str], told: str) -> None:
    before = len(filled.search(""))
    result = invoke(study_entry.main, filled, *words)
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("Error: ")
    assert told in line
    assert len(filled.search("")) == before


def test_an_empty_store_says_what_to_do(store: Store, tmp_path: Path) -> None:
    assert "run a sweep first" in invoke(study_entry.main, store).output
    absent = tmp_path / "absent.db"
    result = CliRunner().invoke(study_entry.main, ["--tracking-uri", f"sqlite:///{absent}"])
    assert result.exit_code == 2
    assert "there is no experiment 'slim'" in result.output
    assert not absent.exists()


def test_accuracy_is_kept_though_the_baseline_is_filtered_out_or_flagged(store: Store) -> None:
    log = logging_to(store)
    base = log({"accuracy/mean": 0.635, "latency/e2e_mean_ms": 100.0, "memory/required_mib": 1000.0})
    for precision, accuracy, size in (("gptq-int8", 0.63, 0.6), ("gptq-int4", 0.485, 0.4)):
        metrics = {"accuracy/mean": accuracy, "latency/e2e_mean_ms": 100 * size, "memory/required_mib": 1000 * size}
        log(metrics, precision=precision, tags={TAG.BASELINE: base})

    def chosen(filters: Filters) -> list[str | None]:
        found = study.make(store, KEPT, filters)
        assert not any(answer.dropped for answer in found.recommendations)
        return [answer.choice and answer.choice.configuration for answer in found.recommendations]

    assert chosen(Filters()) == ["m/gptq-int8@vllm"] * 2
    filtered = Filters(precisions=("gptq-int4", "gptq-int8"))
    assert chosen(filtered) == ["m/gptq-int8@vllm"] * 2
    assert (
        "Left out, and still the baseline that others are judged against: m/bf16@vllm (precision bf16)."
        in study.make(store, KEPT, filtered).notes
    )
    store.log(base, tags={TAG.VALIDITY: "throttled"})
    assert chosen(Filters()) == ["m/gptq-int8@vllm"] * 2


def test_configurations_of_one_name_are_told_apart_in_every_answer(store: Store, tmp_path: Path) -> None:
    log = logging_to(store)
    for size, accuracy, latency in ((128, 0.6, 60.0), (32, 0.65, 61.0)):
        metrics = {"accuracy/mean": accuracy, "latency/e2e_mean_ms": latency, "memory/required_mib": 400.0}
        log(metrics, precision="gptq-int4", quantize__group_size=size)
    coarse, fine = (f"m/gptq-int4@vllm (quantize.group_size={size})" for size in (128, 32))
    found = study.make(store, Question(deployments=("balanced",), constraints=("accuracy/mean >= 0.61",), draws=10))
    (answer,) = found.recommendations
    assert answer.choice is not None and answer.choice.configuration == fine
    assert f"Misses what is asked: {coarse} (accuracy/mean >= 0.61)." in sentences(answer)
    (free,) = study.make(store, Question(deployments=("accuracy-critical",), draws=10)).recommendations
    assert free.choice is not None and free.runner_up is not None
    assert (free.choice.configuration, free.runner_up.option.configuration) == (fine, coarse)
    (weighed,) = study.make(store, Question(deployments=("balanced",), draws=10)).recommendations
    assert weighed.choice is not None
    assert {each.below or each.above for each in weighed.weights} - {None, weighed.choice.configuration} <= {coarse, fine}
    evidence.write(found, tmp_path / "out", formats=("svg",))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "out" / evidence.OPTUNA))
    loaded = optuna.load_study(study_name="slim", storage=optuna.storages.JournalStorage(backend))
    assert {trial.user_attrs["configuration"] for trial in loaded.trials} == {coarse, fine}


def test_a_report_shows_what_was_asked(store: Store, tmp_path: Path) -> None:
    log = logging_to(store)
    base = None
    for precision, cot, p99 in (("bf16", 0.7, 40.0), ("gptq-int8", 0.69, 20.0), ("gptq-int4", 0.5, 10.0)):
        metrics = {"accuracy/mean": 0.5, "accuracy/gsm8k": cot, "accuracy/gsm8k_cot": cot, "latency/ttft_p99_ms": p99}
        tags = {TAG.BASELINE: base} if base else {}
        run = log({**metrics, "gpu/utilization_mean_pct": p99}, precision=precision, tags=tags)
        base = base or run
    asked = ("accuracy/gsm8k_cot", "latency/ttft_p99_ms")
    limits = ("gpu/utilization_mean_pct <= 25", "non-inferior gsm8k if measured")
    found = study.make(store, Question(objectives=asked, weights=(3, 1), constraints=limits, deployments=(), draws=20))
    evidence.write(found, tmp_path / "out", formats=("svg",))
    page = (tmp_path / "out" / "report.html").read_text()
    data = json.loads(page.split('id="data"')[1].partition(">")[2].partition("</script>")[0])
    assert [column["key"] for column in data["columns"]][:4] == [*asked, "gpu/utilization_mean_pct", "accuracy/gsm8k"]
    assert data["views"][0] == {"title": "Accuracy, GSM8K cot against Latency, TTFT P99", "x": asked[1], "y": asked[0]}
    first = html.unescape(page.split('id="answer"')[1].partition("</section>")[0])
    assert re.findall("<dt>(.*?)</dt>", first)[:3] == ["Accuracy, GSM8K cot", "Latency, TTFT P99", "GPU, utilization mean"]
    assert re.findall("<dd>([^<]*)", first)[:3] == ["0.6900", "20.0 ms", "20.0 %"]
    why = first.split('class="why">')[1].partition("</p>")[0]
    assert why.startswith(
        "The nearest to the best of Accuracy, GSM8K cot (75% of the weight); Latency, TTFT P99 (25% of the weight)."
    )
    (answer,) = found.recommendations
    told = sentences(answer)[1:]
    assert len(told) > 3
    assert all(sentence.removeprefix("Runner-up: ") in first for sentence in told)
    besides = first.split("<dt>Besides</dt>")[1]
    assert "Misses what is asked: m/bf16@vllm" in besides and "of the weight (now 75%)" in besides


def test_costs_are_against_a_baseline_that_is_left_out(store: Store) -> None:
    log = logging_to(store)
    base = log({"latency/e2e_mean_ms": 100.0})
    run = log({"latency/e2e_mean_ms": 50.0}, precision="gptq-int8", tags={TAG.BASELINE: base})
    found = study.make(store, KEPT, Filters(precisions=("gptq-int8",)))
    (cost,) = report.costs_of(found.frame, run, references=found.selection.references)
    assert cost.change == "−50.0 %"


def test_an_objective_that_nothing_measured_does_not_empty_the_front(filled: Store, tmp_path: Path) -> None:
    asked = ("accuracy/mean", "latency/amortized_b8_ms", "fidelity/kl_divergence_nats")
    found = study.make(filled, Question(objectives=asked, draws=20))
    without = study.make(filled, Question(objectives=asked[:2], draws=20))
    assert found.front is not None and without.front is not None and found.sureness is not None
    assert found.objectives == asked[:2]
    assert found.front.run_ids == without.front.run_ids != ()
    assert found.sureness.hypervolume is not None
    assert "Not in the Pareto front, since nothing measured it: fidelity/kl_divergence_nats." in found.notes
    evidence.write(found, tmp_path / "out", formats=("svg",))
    front = pd.read_csv(tmp_path / "out" / "front.csv", index_col="run_id")
    assert set(front.index[front["rank"] == 0]) == set(found.front.run_ids)
    alone = study.make(filled, Question(objectives=asked[1:], draws=20))
    assert (alone.front, alone.objectives) == (None, ("latency/amortized_b8_ms",))
    with pytest.raises(UserError, match=r"no configuration has fidelity/kl_divergence_nats; allowed"):
        study.make(filled, Question(objectives=asked[2:], draws=20))


def test_without_any_baseline_nothing_can_be_judged_to_keep_its_accuracy(store: Store) -> None:
    log = logging_to(store)
    log({"accuracy/mean": 0.4, "latency/e2e_mean_ms": 40.0, "memory/required_mib": 400.0}, precision="gptq-int4")
    for answer in study.make(store, KEPT).recommendations:
        assert (answer.choice, answer.nearest) == (None, None)
        assert answer.left_out[0].reasons == ("it has no baseline",)


def test_flagged_measurements_are_left_out_and_this_is_said(filled: Store) -> None:
    for run in filled.configurations():
        filled.log(run.run_id, tags={TAG.VALIDITY: "warmup_unsettled"})
    with pytest.raises(UserError, match=r"13 invalid; flagged measurements can be taken too \(--flagged\)"):
        study.make(filled)
    found = study.make(filled, filters=Filters(flagged=True))
    assert len(found.frame) == 13
    assert all(one.choice is None or one.choice.flagged == "warmup_unsettled" for one in found.recommendations)
