"""Which configurations a study looks at, and why others are left out, on real SQLite stores."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import protocol
from analysis.selection import Filters, Selection, select
from slim.aggregate import combine_repeats
from slim.errors import StoreError, UserError
from slim.stats import mean_interval
from slim.store import TAG, Store, StoredRun
from tests.analysis.conftest import PARAMS, Log
from tests.answers import answers
from tests.made import run_sweep

E2E, ACCURACY, SIZE = "latency/e2e_mean_ms", "accuracy/mean", "size/checkpoint_gb"


def reasons(selection: Selection) -> dict[str, str]:
    return dict(zip(selection.left_out["run_id"], selection.left_out["reason"], strict=True))


def test_the_sweeps_of_a_ledger_are_read_as_they_are(store: Store, tmp_path: Path) -> None:
    runs = run_sweep(store, tmp_path, {"bf16@vllm": [answers([1, 1, 0])], "gptq-int4@vllm": [answers([1, 0, 0])]})
    found = select(store)
    assert set(found.comparable().index) == set(runs.values())
    assert found.left_out.empty
    assert found.frame.loc[runs["gptq-int4@vllm"], "baseline"] == runs["bf16@vllm"]
    assert found.frame[["runs", "sweeps", "group"]].eq(1).all(axis=None)
    stored = store.get(runs["gptq-int4@vllm"]).metrics
    assert all(found.frame.loc[runs["gptq-int4@vllm"], key] == value for key, value in stored.items())


def test_an_empty_experiment_has_no_rows(store: Store) -> None:
    found = select(store)
    assert found.comparable().empty and found.left_out.empty and found.groups == ()


def test_what_is_failed_incomplete_or_flagged_is_left_out_with_the_reason(store: Store, log: Log) -> None:
    good = log()
    failed = log(precision="gptq-int4", failure="out_of_memory")
    cut_off = log(precision="gptq-int4", failure="interrupted")
    running = log(precision="gptq-int4", ended=False)
    flagged = log({"validity/ok": 0}, precision="gptq-int8", tags={TAG.VALIDITY: "clocks_throttled,warmup_unsettled"})
    found = select(store)
    assert list(found.frame.index) == [good]
    assert reasons(found) == {
        failed: "failed:out_of_memory",
        cut_off: "incomplete: interrupted",
        running: "incomplete: running",
        flagged: "invalid:clocks_throttled,warmup_unsettled",
    }
    assert set(found.left_out["kind"]) == {"failed", "incomplete", "invalid"}
    assert set(select(store, Filters(flagged=True)).frame.index) == {good, flagged}


def test_an_older_sound_run_stands_for_a_newer_flagged_one(store: Store, log: Log) -> None:
    older = log({E2E: 1.0})
    newer = log({E2E: 2.0}, tags={TAG.VALIDITY: "device_shared"})
    assert list(select(store).frame.index) == [older]
    assert list(select(store, Filters(flagged=True)).frame.index) == [newer]


def test_the_newest_of_several_measurements_counts(store: Store, log: Log) -> None:
    first, second = store.begin("sweep", "one"), store.begin("sweep", "two")
    old = log({E2E: 1.0, SIZE: 3.0}, sweep=first, end_unix_s=1e9)
    new = log({E2E: 2.0}, sweep=second, end_unix_s=2e9)
    found = select(store)
    assert found.frame[E2E].to_dict() == {new: 2.0}
    assert SIZE not in found.frame or found.frame[SIZE].isna().all()
    assert reasons(found) == {old: f"superseded by run {new}"}


def test_runs_of_the_same_key_are_repeats(store: Store, log: Log) -> None:
    sweeps = [store.begin("sweep", name) for name in ("one", "two", "three")]
    values = [10.0, 12.0, 17.0]
    runs = [
        log({E2E: v, SIZE: 2.0 + i, ACCURACY: 0.5}, key="same", sweep=s, end_unix_s=1e9 + i)
        for i, (v, s) in enumerate(zip(values, sweeps, strict=True))
    ]
    found = select(store)
    (row,) = found.frame.to_dict("records")
    interval = mean_interval(values)
    assert interval is not None
    assert found.frame.index[0] == runs[-1]
    assert (row["runs"], row["sweeps"], row["profiles"]) == (3, 3, 3)
    assert row[E2E] == pytest.approx(13.0)
    assert (row[f"{E2E}_ci_low"], row[f"{E2E}_ci_high"]) == pytest.approx((interval.low, interval.high))
    assert row[SIZE] == 4.0
    assert row["validity"] == f"repeats_spread:{E2E}"
    assert found.left_out.empty
    named = [json.loads(store.get(run).tags[TAG.STAGE_RUNS])["profile"][0] for run in reversed(runs)]
    assert json.loads(row["stage_runs"])["profile"] == named


def test_the_same_profile_run_is_not_a_repeat_of_itself(store: Store, log: Log) -> None:
    shared = {"profile": ["p1"], "evaluate": ["e1"]}
    old = log({E2E: 10.0}, key="same", stages=shared, end_unix_s=1e9)
    new = log({E2E: 10.0}, key="same", stages={"profile": ["p1"], "evaluate": ["e2"]}, end_unix_s=2e9)
    found = select(store)
    assert found.frame["runs"].to_dict() == {new: 1}
    assert list(reasons(found)) == [old]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hardware": "1x Other"}, "hardware is 1x Other (1) or 1x GPU (1)"),
        ({"driver_version": "590"}, "driver_version is 590 (1) or 580 (1)"),
        ({"torch_version": "2.12.0"}, "vllm torch_version is 2.12.0 (1) or 2.11.0 (1)"),
        ({"engine_version": "0.27.0"}, "vllm engine_version is 0.27.0 (1) or 0.26.0 (1)"),
        ({"profile__input_tokens": 512}, "profile.input_tokens is 512 (1) or 256 (1)"),
        ({"seed": 43}, "seed is 43 (1) or 42 (1)"),
    ],
)
def test_what_is_not_comparable_is_never_taken_together(store: Store, log: Log, changed: dict[str, object], told: str) -> None:
    log({E2E: 1.0}, key="same", end_unix_s=1e9)
    log({E2E: 3.0}, key="same", end_unix_s=2e9, **changed)
    found = select(store)
    assert found.frame[E2E].tolist() == [3.0, 1.0]
    assert found.frame["group"].tolist() == [1, 2]
    with pytest.raises(UserError) as refused:
        found.comparable()
    message = str(refused.value)
    assert told in message and "choose one by" in message and "\n" not in message
    second = select(store, Filters(group=2))
    assert second.comparable()[E2E].tolist() == [1.0]
    assert second.left_out["kind"].tolist() == ["group"]
    key = next(iter(found.groups[0].differs)).rpartition(" ")[2]
    assert len(select(store, Filters(ignore=(key,))).comparable()) == 1


def test_the_filter_that_a_refusal_names_chooses(store: Store, log: Log) -> None:
    old = log(profile__input_tokens=256, end_unix_s=1e9)
    new = log(profile__input_tokens=512, end_unix_s=2e9)
    with pytest.raises(UserError, match=r"params=\{'profile.input_tokens': '512'\}"):
        select(store).comparable()
    found = select(store, Filters(params={"profile.input_tokens": "512"}))
    assert list(found.comparable().index) == [new]
    assert reasons(found) == {old: "other protocol: profile.input_tokens is 256"}
    other = log(hardware="1x Other", profile__input_tokens=512, end_unix_s=3e9)
    found = select(store, Filters(hardware=("1x GPU",), params={"profile.input_tokens": "512"}))
    assert reasons(found)[other] == "other hardware: 1x Other"


def test_what_was_found_while_measuring_is_no_protocol(store: Store, log: Log) -> None:
    log(profile__warmup_requests=10, precision="bf16")
    log(profile__warmup_requests=30, precision="fp16")
    assert len(select(store).comparable()) == 2


def test_two_engines_are_compared_whatever_their_versions(store: Store, log: Log) -> None:
    log(engine="vllm", engine_version="0.26.0")
    log(engine="transformers", engine_version="5.17.0", torch_version="2.10.0")
    assert len(select(store).comparable()) == 2


def test_engine_options_make_another_configuration(store: Store, log: Log) -> None:
    log(engine_options__max_model_len=2048)
    log(engine_options__max_model_len=4096)
    log(precision="fp16")
    frame = select(store).comparable()
    assert sorted(frame["variant"]) == ["", "engine_options.max_model_len=2048", "engine_options.max_model_len=4096"]


def test_models_with_one_short_name_are_told_apart(store: Store, log: Log) -> None:
    for owner in ("meta", "unsloth"):
        log(model=f"{owner}/llama", tags={TAG.CONFIG: "llama/bf16@vllm"})
    assert sorted(select(store).comparable()["variant"]) == ["model=meta/llama", "model=unsloth/llama"]


def test_a_profile_and_an_evaluation_of_two_sweeps_make_one_row(store: Store, log: Log) -> None:
    profiled = log({E2E: 5.0, SIZE: 2.0}, stages={"profile": ["p"]}, end_unix_s=1e9)
    evaluated = log({ACCURACY: 0.5, SIZE: 2.0}, stages={"evaluate": ["e"]}, evaluate__tasks="facts", end_unix_s=2e9)
    found = select(store)
    (row,) = found.comparable().to_dict("records")
    assert found.frame.index[0] == evaluated
    assert (row[E2E], row[ACCURACY], row["runs"]) == (5.0, 0.5, 2)
    assert json.loads(row["stage_runs"]) == {"evaluate": ["e"], "profile": ["p"]}
    assert found.left_out.empty
    assert profiled not in found.frame.index


def test_what_is_filled_in_is_of_its_stages_only_and_a_verdict_brings_its_difference(store: Store, log: Log) -> None:
    difference = {"impact/facts_difference": -0.1, "impact/facts_difference_ci_low": -0.2, "impact/speedup": 3.0}
    older = log(
        {E2E: 9.0, ACCURACY: 0.5, **difference},
        stages={"quantize": ["q"], "profile": ["p1"], "evaluate": ["e"]},
        tags={f"{TAG.VERDICT}facts": "inferior", TAG.COMPARISON: "{}"},
        end_unix_s=1e9,
    )
    newest = log({E2E: 5.0}, stages={"quantize": ["q"], "profile": ["p2"]}, end_unix_s=2e9)
    found = select(store)
    row = found.frame.loc[newest]
    assert (row[E2E], row[ACCURACY], row["verdict/facts"]) == (5.0, 0.5, "inferior")
    assert (row["impact/facts_difference"], row["impact/facts_difference_ci_low"]) == (-0.1, -0.2)
    assert "impact/speedup" not in found.frame
    # The older profile is none of what the row says.
    assert json.loads(row["stage_runs"]) == {"quantize": ["q"], "profile": ["p2"], "evaluate": ["e"]}
    assert row["profiles"] == 1
    assert [run.run_id for run in found.merged[newest].runs] == [newest, older]


def test_impact_is_against_the_baseline_that_is_shown(store: Store, log: Log) -> None:
    old = log({E2E: 100.0}, end_unix_s=1e9)
    int4 = log({E2E: 50.0, "impact/speedup": 2.0}, precision="gptq-int4", tags={TAG.BASELINE: old}, end_unix_s=1.1e9)
    assert select(store).frame.loc[int4, "impact/speedup"] == 2.0
    new = log({E2E: 80.0}, end_unix_s=2e9)
    int8 = log({E2E: 40.0}, precision="gptq-int8", end_unix_s=2.1e9)
    frame = select(store).comparable()
    assert frame.loc[[int4, int8], "baseline"].tolist() == [new, new]
    assert frame.loc[[int4, int8], "impact/speedup"].tolist() == [1.6, 2.0]
    # One that was compared with what is not here keeps what the store says.
    log(failure="engine_crash")
    other = log({E2E: 10.0, "impact/speedup": 9.0}, model="n", precision="gptq-int8", tags={TAG.BASELINE: "gone"})
    assert select(store).frame.loc[other, "impact/speedup"] == 9.0


def test_a_baseline_that_is_left_out_is_a_reference_for_what_it_is_the_baseline_of(store: Store, log: Log) -> None:
    base = log({ACCURACY: 0.7, E2E: 100.0}, end_unix_s=1e9)
    int8 = log({ACCURACY: 0.69, E2E: 50.0}, precision="gptq-int8", tags={TAG.BASELINE: base}, end_unix_s=1e9)
    unnamed = log({ACCURACY: 0.5, E2E: 40.0}, precision="gptq-int4", end_unix_s=1e9)
    log({ACCURACY: 0.7}, precision="fp16", end_unix_s=1e9)
    log({ACCURACY: 0.1}, engine_options__max_model_len=8192, end_unix_s=1e9)
    found = select(store, Filters(precisions=("gptq-int8", "gptq-int4")))
    assert found.frame["baseline"].to_dict() == {int8: base, unnamed: base}
    assert found.references[ACCURACY].to_dict() == {base: 0.7}
    assert reasons(found)[base] == "precision bf16"
    assert found.frame.loc[unnamed, "impact/speedup"] == 2.5
    assert select(store).references.empty
    assert select(store, Filters(since=date(2020, 1, 1))).references.empty


def test_only_what_can_be_compared_is_a_reference_and_the_sound_before_the_flagged(store: Store, log: Log) -> None:
    other = log({ACCURACY: 0.9}, driver_version="590", end_unix_s=4e9)
    sound = log({ACCURACY: 0.7}, end_unix_s=1e9)
    flagged = log({ACCURACY: 0.2}, tags={TAG.VALIDITY: "throttled"}, end_unix_s=2e9)
    log({ACCURACY: 0.1}, failure="engine_crash", end_unix_s=3e9)
    int8 = log({ACCURACY: 0.69}, precision="gptq-int8", tags={TAG.BASELINE: flagged}, end_unix_s=3e9)
    found = select(store, Filters(precisions=("gptq-int8",)))
    assert found.frame.loc[int8, "baseline"] == sound
    assert list(found.references.index) == [sound]
    found = select(store, Filters(params={"driver_version": "580"}))
    assert (found.frame.loc[int8, "baseline"], list(found.references.index)) == (sound, [])
    store.log(sound, tags={TAG.VALIDITY: "throttled"})
    found = select(store, Filters(params={"driver_version": "580"}))
    assert list(found.references.index) == [flagged]
    assert {sound, flagged, other} <= set(reasons(found))


def test_filters_by_what_a_configuration_is(store: Store, log: Log) -> None:
    a = log(model="org/a", tags={TAG.CONFIG: "a/bf16@vllm"})
    b = log(model="org/b", precision="gptq-int4", engine="transformers", tags={TAG.CONFIG: "b/x", "team": "red"})
    for filters, kept, reason in (
        (Filters(models=("a",)), a, "model org/b"),
        (Filters(models=("org/b",)), b, "model org/a"),
        (Filters(precisions=("gptq-int4",)), b, "precision bf16"),
        (Filters(engines=("vllm",)), a, "engine transformers"),
        (Filters(tags={"team": "red"}), b, "tag team is not set"),
    ):
        found = select(store, filters)
        assert list(found.frame.index) == [kept]
        assert set(reasons(found).values()) == {reason}
        assert set(found.left_out["kind"]) == {"filtered"}


def test_a_date_is_its_first_moment_in_utc(store: Store, log: Log) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    old, new = log(end_unix_s=midnight - 1), log(precision="fp16", end_unix_s=midnight)
    found = select(store, Filters(since=date(2026, 3, 1)))
    assert list(found.frame.index) == [new]
    assert reasons(found) == {old: "of 2026-02-28"}
    assert len(select(store, Filters(since=datetime(2026, 2, 28, 23))).frame) == 2


def test_a_sweep_holds_what_it_reused(store: Store, log: Log) -> None:
    first, second = store.begin("sweep", "one"), store.begin("sweep", "two", tags={"project": "x"})
    reused, other, own = log(sweep=first), log(precision="fp16", sweep=first), log(precision="gptq-int4", sweep=second)
    store.log(second, tags={TAG.REUSED: "m/bf16@vllm"})
    with pytest.raises(StoreError, match=r"plan\.json"):
        select(store, Filters(sweeps=(second,)))
    plan = {"configurations": [{"run_id": reused}, {"run_id": own}, {"run_id": None}]}
    store.log_text(second, json.dumps(plan), "plan.json")
    found = select(store, Filters(sweeps=(second,)))
    assert set(found.frame.index) == {reused, own}
    assert reasons(found) == {other: "of another sweep"}
    assert set(select(store, Filters(sweeps=(first,))).frame.index) == {reused, other}
    assert set(select(store, Filters(tags={"project": "x"})).frame.index) == {own}


def test_versions_of_older_stores_are_read_from_the_plan(store: Store, log: Log) -> None:
    runs = []
    for torch in ("2.11.0", "2.12.0"):
        sweep = store.begin("sweep", torch)
        measure = {"versions": {"torch": torch}, "hardware": {"driver": None}}
        store.log_text(sweep, json.dumps({"configurations": [], "environments": {"measure": measure}}), "plan.json")
        runs.append(log(sweep=sweep, torch_version=None, driver_version=None))
    with pytest.raises(UserError, match=r"torch_version is 2.1\d.0 \(1\) or 2.1\d.0 \(1\)"):
        select(store).comparable()
    assert list(select(store, Filters(params={"torch_version": "2.12.0"})).frame.index) == runs[1:]


@pytest.mark.parametrize(
    "filters",
    [
        Filters(sweeps=("none",)),
        Filters(models=("none",)),
        Filters(precisions=("none",)),
        Filters(engines=("none",)),
        Filters(hardware=("none",)),
        Filters(params={"none": "1"}),
        Filters(group=2),
        Filters(group=0),
    ],
)
def test_what_the_store_does_not_have_is_refused_in_one_line(store: Store, log: Log, filters: Filters) -> None:
    log()
    with pytest.raises(UserError) as refused:
        select(store, filters)
    assert "allowed: " in str(refused.value) and "\n" not in str(refused.value)


def test_every_run_is_behind_a_row_or_left_out_once(store: Store, log: Log) -> None:
    for index in range(24):
        log(
            {E2E: 1.0 + index},
            key=f"k{index % 2}",
            precision=("bf16", "fp16")[index % 2],
            hardware=("1x GPU", "1x Other")[index // 12],
            profile__input_tokens=(256, 512)[index // 3 % 2],
            failure="timeout" if index % 7 == 0 else None,
            tags={TAG.VALIDITY: "x"} if index % 5 == 0 else None,
            stages={"evaluate": [f"e{index}"]} if index % 11 == 0 else None,
        )
    everything = {run.run_id for run in store.configurations()}
    for filters in (
        Filters(),
        Filters(flagged=True),
        Filters(hardware=("1x GPU",)),
        Filters(group=2),
        Filters(precisions=("bf16",)),
    ):
        found = select(store, filters)
        assert found.left_out["run_id"].is_unique
        assert not set(found.left_out["run_id"]) & set(found.frame.index)
        assert int(found.frame["runs"].sum()) + len(found.left_out) == len(everything)
        assert sorted(run_id for group in found.groups for run_id in group.run_ids) == sorted(found.frame.index)


def made(index: int, params: dict[str, str]) -> StoredRun:
    return StoredRun(f"r{index}", "configuration", "", "FINISHED", {**params}, {}, {}, float(index), float(index), (), "")


@given(
    st.lists(
        st.fixed_dictionaries(
            {"hardware": st.sampled_from("AB"), "engine": st.sampled_from(["vllm", "transformers"])},
            optional={
                "profile.input_tokens": st.sampled_from("12"),
                "evaluate.tasks": st.sampled_from("12"),
                "engine_version": st.sampled_from("12"),
            },
        ),
        max_size=12,
    )
)
def test_parts_are_a_partition_in_which_nothing_differs(params: list[dict[str, str]]) -> None:
    runs = [made(index, p) for index, p in enumerate(params)]
    parts = protocol.parts(runs)
    assert sorted(run.run_id for part in parts for run in part.runs) == sorted(run.run_id for run in runs)
    for part in parts:
        for key in ("hardware", "profile.input_tokens", "evaluate.tasks"):
            assert len({run.params[key] for run in part.runs if key in run.params}) <= 1
        for engine in ("vllm", "transformers"):
            assert len({run.params.get("engine_version") for run in part.runs if run.params["engine"] == engine}) <= 1
    assert len({tuple(part.differs.items()) for part in parts}) == len(parts) or len(parts) == 1


def test_the_order_of_the_runs_does_not_change_the_parts() -> None:
    runs = [made(index, {"hardware": "AB"[index % 2], "engine": "vllm"}) for index in range(6)]
    assert protocol.parts(runs) == protocol.parts(runs[::-1])


def test_repeats_are_combined_as_a_sweep_combines_them(store: Store, log: Log) -> None:
    metrics = [{E2E: 10.0, "memory/peak_mib": 5.0}, {E2E: 10.5, "memory/peak_mib": 5.0}]
    for values in metrics:
        log(values, key="same")
    expected, _ = combine_repeats(metrics)
    row = select(store).comparable().iloc[0]
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert row["hardware"] == PARAMS["hardware"]
