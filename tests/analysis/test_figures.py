"""Figures of a study: what they show, and that they are drawn."""

import io
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import figures, labels
from analysis.figures import bars, boxes, heat, lines, radar, scatter, style
from analysis.figures.records import Absent, Bars, Boxes, HeatMap, Lines, Radar, Scatter
from analysis.figures.rows import prepare, tasks
from slim.errors import UserError


def made(*rows: dict[str, object]) -> pd.DataFrame:
    """A frame as `analysis.frame` gives it: each row has ``id``, ``model``, ``precision``, its metrics and what else differs."""
    fixed = {"status": "FINISHED", "engine": "vllm", "hardware": "H200", "baseline": None, "validity": None}
    full = [{**fixed, "configuration": f"{r['model']}/{r['precision']}@{r.get('engine', 'vllm')}", **r} for r in rows]
    return pd.DataFrame(full).set_index("id")


def everything() -> pd.DataFrame:
    """Two models, three precisions, every metric that a figure draws."""
    rows = []
    for model, slow in (("a-1b", 1.0), ("b-3b", 2.5)):
        for number, (precision, better) in enumerate((("bf16", 1.0), ("gptq-int8", 1.4), ("gptq-int4", 1.9))):
            accuracy = 0.6 + 0.05 * slow - 0.03 * number
            rows.append(
                {
                    "id": f"{model}-{precision}",
                    "model": model,
                    "precision": precision,
                    "baseline": f"{model}-bf16" if number else None,
                    "accuracy/mmlu": accuracy,
                    "accuracy/mmlu_stderr": 0.01,
                    "accuracy/mmlu_stem": accuracy - 0.05,
                    "accuracy/gsm8k": accuracy - 0.2,
                    "accuracy/gsm8k_strict": accuracy - 0.3,
                    "accuracy/mean": accuracy - 0.1,
                    "impact/mmlu_drop_pct": -2.0 * number - slow if number else np.nan,
                    "impact/gsm8k_drop_pct": -4.0 * number - slow if number else np.nan,
                    "impact/speedup": better if number else np.nan,
                    "latency/ttft_mean_ms": 20 * slow / better,
                    "latency/e2e_mean_ms": 400 * slow / better,
                    "latency/e2e_mean_ms_ci_low": 390 * slow / better,
                    "latency/e2e_mean_ms_ci_high": 410 * slow / better,
                    "throughput/output_tokens_per_s": 3000 * better / slow,
                    "throughput/output_tokens_per_s_c1": 100 * better / slow,
                    "throughput/output_tokens_per_s_c32": 3000 * better / slow,
                    "energy/net_j_per_query": 3 * slow / better,
                    "energy/mean_power_w": 500.0,
                    "energy/idle_w": 120.0,
                    "memory/required_mib": 6000 * slow / better,
                    "size/checkpoint_gb": 6 * slow / better,
                }
            )
    return made(*rows)


def raw(frame: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return {str(i): {"ttft_ms": generator.gamma(9, 2, 50), "e2e_ms": generator.gamma(9, 40, 50)} for i in frame.index}


def test_every_figure_is_drawn_in_every_format_and_is_not_empty(tmp_path: Path) -> None:
    frame = everything()
    drawn = figures.draw_all(frame, raw(frame), tmp_path / "out", ("png", "svg", "pdf"))
    assert [d.name for d in drawn if d.absent is not None] == []
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{d.name}.{f}" for d in drawn for f in ("png", "svg", "pdf")}
    for figure in drawn:
        assert figure.caption and figure.title
        image = Image.open(figure.files["png"]).convert("RGB")
        assert image.width in (round(300 * style.SINGLE_IN), round(300 * style.DOUBLE_IN)), figure.name
        pixels = np.asarray(image)
        assert (pixels < 200).any(axis=2).mean() > 0.01, figure.name
        # Nothing is cut off: the outermost pixels are background.
        assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])), figure.name
        assert figure.files["svg"].read_bytes().startswith(b"<?xml")
        assert figure.files["pdf"].read_bytes().startswith(b"%PDF")


def test_the_same_record_gives_the_same_bytes_without_a_date() -> None:
    frame = everything()
    for record in figures.compute_all(frame, raw(frame)):
        assert not isinstance(record, Absent)
        first, second = figures.encode(record, ("svg", "pdf")), figures.encode(record, ("svg", "pdf"))
        assert first == second
        assert b"dc:date" not in first["svg"] and b"CreationDate" not in first["pdf"]


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    figures.encode(figures.compute_all(everything())[0], ("svg",))
    assert dict(matplotlib.rcParams) == before


def test_a_figure_without_its_metrics_says_which_are_missing(tmp_path: Path) -> None:
    frame = made({"id": "r", "model": "m", "precision": "bf16", "size/checkpoint_gb": 2.0})
    drawn = figures.draw_all(frame, None, tmp_path)
    assert [d.name for d in drawn if d.absent is None] == []
    assert list(tmp_path.iterdir()) == []
    reasons = {d.name: d.absent or "" for d in drawn}
    assert "accuracy/mean" in reasons["size_accuracy"]
    assert "energy/net_j_per_query" in reasons["energy"]
    assert "no raw samples" in reasons["latency_distribution"]


def test_an_empty_store_draws_nothing() -> None:
    empty = everything().iloc[:0]
    assert all(isinstance(record, Absent) for record in figures.compute_all(empty))


def test_an_unknown_format_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'gif'; allowed: png, svg, pdf"):
        figures.draw_all(everything(), None, tmp_path / "out", ("gif",))
    assert not (tmp_path / "out").exists()


def test_only_finished_configurations_are_drawn_in_the_order_of_the_catalogue() -> None:
    frame = made(
        {"id": "1", "model": "m", "precision": "gptq-int4"},
        {"id": "2", "model": "m", "precision": "bf16", "engine": "transformers"},
        {"id": "3", "model": "m", "precision": "bf16"},
        {"id": "4", "model": "m", "precision": "bf16"},
        {"id": "5", "model": "m", "precision": "gptq-int8", "status": "FAILED"},
    )
    shown = prepare(frame)
    assert list(shown["series"]) == ["bf16@vllm", "bf16@vllm (2)", "bf16@transformers", "gptq-int4@vllm"]
    assert list(shown["engine_number"]) == [0, 0, 1, 0]


def test_names_with_dollars_are_drawn_as_they_are(tmp_path: Path) -> None:
    frame = everything()
    frame["configuration"] = [str(name).replace("a-1b", r"price$5_$6\frac") for name in frame["configuration"]]
    drawn = figures.draw_all(frame, None, tmp_path, ("svg",))
    assert sum(figure.absent is None for figure in drawn) > 10


def test_a_task_whose_name_extends_anothers_is_shown() -> None:
    names = ("gsm8k", "gsm8k_cot", "mmlu", "mmlu_other", "mmlu_pro", "mmlu_social_sciences")
    frame = prepare(made({"id": "1", "model": "m", "precision": "bf16", **{f"accuracy/{name}": 0.5 for name in names}}))
    assert tasks(frame, parts=False) == ["gsm8k", "gsm8k_cot", "mmlu", "mmlu_pro"]
    assert tasks(frame, parts=True) == list(names)
    assert tasks(frame.drop(columns="accuracy/mmlu"), parts=False) == [name for name in names if name != "mmlu"]


def test_configurations_of_one_name_are_told_apart_by_their_settings() -> None:
    frame = made(
        {"id": "1", "model": "m", "precision": "gptq-int4", "variant": "quantize.group_size=128"},
        {"id": "2", "model": "m", "precision": "gptq-int4", "variant": "quantize.group_size=32"},
        {"id": "3", "model": "m", "precision": "bf16", "variant": ""},
    )
    assert list(prepare(frame)["series"]) == ["bf16", "gptq-int4 (group_size=128)", "gptq-int4 (group_size=32)"]


def test_tasks_leave_out_other_readings_and_parts() -> None:
    shown = prepare(everything())
    assert tasks(shown, parts=False) == ["gsm8k", "mmlu"]
    assert tasks(shown, parts=True) == ["gsm8k", "mmlu", "mmlu_stem"]


def test_a_front_is_drawn_for_each_machine() -> None:
    point = {"precision": "bf16", "accuracy/mean": 0.5, "size/checkpoint_gb": 1.0}
    frame = made(
        {"id": "1", "model": "a", **point},
        {"id": "2", "model": "b", **point, "accuracy/mean": 0.4},
        {"id": "3", "model": "c", **point, "size/checkpoint_gb": 0.5, "accuracy/mean": 0.3},
        {"id": "4", "model": "d", **point, "accuracy/mean": 0.1, "hardware": "T4"},
        {"id": "5", "model": "e", **point, "accuracy/mean": None},
    )
    record = scatter.plane(prepare(frame), "s", "S", ("size/checkpoint_gb",), ("accuracy/mean",))
    assert isinstance(record, Scatter)
    assert [(p.title, [(q.model, q.on_front) for q in p.points]) for p in record.panels] == [
        ("H200", [("a", True), ("b", False), ("c", True)]),
        ("T4", [("d", True)]),
    ]
    assert record.better == (-1, 1)
    assert (record.x_label, record.y_label) == ("Size, checkpoint (GB)", "Accuracy, mean")


def test_two_metrics_that_no_configuration_has_together_make_no_scatter() -> None:
    frame = made(
        {"id": "1", "model": "a", "precision": "bf16", "accuracy/mean": 0.5},
        {"id": "2", "model": "b", "precision": "bf16", "size/checkpoint_gb": 1.0},
    )
    record = scatter.plane(prepare(frame), "s", "S", ("size/checkpoint_gb",), ("accuracy/mean",))
    assert isinstance(record, Absent) and "both" in record.reason


def test_speed_up_is_of_a_latency_where_the_store_has_none() -> None:
    frame = made(
        {"id": "b", "model": "m", "precision": "fp16", "latency/amortized_b8_ms": 200.0},
        {"id": "q", "model": "m", "precision": "gptq-int4", "baseline": "b", "latency/amortized_b8_ms": 50.0},
        {"id": "x", "model": "m", "precision": "gptq-int8", "baseline": "elsewhere", "latency/amortized_b8_ms": 50.0},
    )
    record = bars.speedup(prepare(frame))
    assert isinstance(record, Bars) and record.reference == 1.0
    assert [(s.label, s.values) for s in record.panels[0].series] == [("gptq-int4", (4.0,))]


def test_degradation_is_the_mean_over_models_with_its_range() -> None:
    record = bars.degradation(prepare(everything()))
    assert isinstance(record, Bars)
    int8, int4 = record.panels[0].series
    assert record.panels[0].groups == ("GSM8K", "MMLU")
    assert int8.values == (-5.75, -3.75)
    assert (int4.low, int4.high) == ((-10.5, -6.5), (-9.0, -5.0))


def test_accuracy_of_one_model_stands_by_task_with_standard_errors() -> None:
    frame = everything()
    record = bars.accuracy(prepare(frame[frame["model"] == "a-1b"]))
    assert isinstance(record, Bars) and len(record.panels) == 1
    first = record.panels[0].series[0]
    assert first.values == (pytest.approx(0.45), pytest.approx(0.65))
    assert first.low == (None, pytest.approx(0.64))


def test_performance_is_relative_to_the_best_on_the_machine_and_turned() -> None:
    frame = made(
        {"id": "1", "model": "a", "precision": "bf16", "accuracy/mean": 0.8, "size/checkpoint_gb": 4.0},
        {"id": "2", "model": "a", "precision": "gptq-int4", "accuracy/mean": 0.4, "size/checkpoint_gb": 1.0},
        {"id": "3", "model": "a", "precision": "bf16", "accuracy/mean": 0.1, "size/checkpoint_gb": 9.0, "hardware": "T4"},
    )
    record = heat.performance(prepare(frame))
    assert isinstance(record, HeatMap)
    assert dict(zip(record.rows, record.values, strict=True)) == {
        "a, H200 bf16": (1.0, 0.25),
        "a, H200 gptq-int4": (0.5, 1.0),
        "a, T4 bf16": (1.0, 1.0),
    }


def test_a_radar_is_relative_to_the_baseline_and_leaves_out_axes_with_holes() -> None:
    frame = everything()
    frame.loc["b-3b-gptq-int4", "accuracy/mean"] = None
    record = radar.performance(prepare(frame))
    assert isinstance(record, Radar)
    assert record.axes == ("First token", "Latency", "Throughput", "Energy", "Memory", "Size")
    assert [p.title for p in record.panels] == ["a-1b", "b-3b"]
    assert record.panels[0].series[0].values == (1.0,) * 6
    assert record.panels[0].series[2].values == pytest.approx((1.9,) * 6)


def test_latencies_are_percentiles_of_the_finite_samples() -> None:
    frame = prepare(everything())
    record = boxes.latency(frame, {"a-1b-bf16": {"e2e_ms": [*range(101), float("nan")]}, "gone": {"e2e_ms": [1.0]}})
    assert isinstance(record, Boxes)
    (panel,) = record.panels
    (box,) = panel.boxes
    assert (box.count, box.p5, box.p25, box.p50, box.p75, box.p95, box.p99) == (101, 5, 25, 50, 75, 95, 99)


def test_a_curve_is_in_the_order_of_concurrency() -> None:
    frame = made(
        {
            "id": "1",
            "model": "m",
            "precision": "bf16",
            **{f"throughput/output_tokens_per_s_c{n}": float(n * 10) for n in (128, 8, 1)},
        }
    )
    record = lines.throughput(prepare(frame))
    assert isinstance(record, Lines)
    assert (record.panels[0].lines[0].x, record.panels[0].lines[0].y) == ((1, 8, 128), (10, 80, 1280))


def test_too_many_models_for_bars_are_refused_with_the_number() -> None:
    frame = made(
        *({"id": str(i), "model": f"m{i}", "precision": "bf16", "energy/net_j_per_query": float(i)} for i in range(1, 40))
    )
    record = bars.metric(prepare(frame), "energy", "Energy", ("energy/net_j_per_query",))
    assert isinstance(record, Absent) and "39 models" in record.reason


def test_more_configurations_than_can_be_read_are_refused_with_the_number() -> None:
    rows = [
        {"id": str(i), "model": "m", "precision": "bf16", "baseline": "0" if i else None, "accuracy/mmlu": 0.5}
        | {"accuracy/mean": 0.5 + i / 1e4, "latency/e2e_mean_ms": 1.0 + i, "size/checkpoint_gb": 1.0}
        | {f"throughput/output_tokens_per_s_c{n}": 9.0 for n in (1, 2)}
        for i in range(200)
    ]
    reasons = {r.name: r.reason if isinstance(r, Absent) else "" for r in figures.compute_all(made(*rows))}
    assert reasons["accuracy"] == "200 bars do not fit; at most 150 can be read"
    assert "200 configurations of a model do not fit" in reasons["radar"]
    assert "200 configurations of a model do not fit" in reasons["throughput_concurrency"]
    assert "200 configurations do not fit" in reasons["accuracy_heatmap"]
    assert reasons["latency_accuracy"] == ""


def test_precisions_look_different_without_colour_too() -> None:
    from slim.precisions import CATALOGUE

    looks = [style.look(name) for name in CATALOGUE]
    for part in zip(*looks, strict=True):
        assert len(set(part)) == len(looks)
    assert style.look("something-new") == style.look("something-new")


def test_no_text_is_smaller_than_seven_points_and_none_is_lost() -> None:
    frame = everything()
    for record in figures.compute_all(frame, raw(frame)):
        assert not isinstance(record, Absent)
        with style.settings():
            figure = figures._draw(record)
            figure.savefig(io.BytesIO(), format="png")
            texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip() and t.get_visible()]
        assert texts and min(t.get_fontsize() for t in texts) >= style.FONT_PT


def test_a_bar_that_is_negative_stays_below_the_line() -> None:
    record = bars.degradation(prepare(everything()))
    assert isinstance(record, Bars)
    with style.settings():
        axis = bars.draw(replace(record, title="")).axes[0]
    low, high = axis.get_ylim()
    assert high == 0.0 and low < -10.5


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("latency/e2e_mean_ms", "Latency, E2E mean (ms)"),
        ("latency/amortized_b8_ms", "Latency, amortized batch of 8 (ms)"),
        ("energy/net_j_per_query", "Energy, net per query (J)"),
        ("energy/net_j_per_output_token", "Energy, net per output token (J/token)"),
        ("throughput/output_tokens_per_s", "Throughput, output (tok/s)"),
        ("throughput/output_tokens_per_s_c8", "Throughput, output at concurrency 8 (tok/s)"),
        ("accuracy/mmlu_stem", "Accuracy, MMLU STEM"),
        ("fidelity/kl_divergence_nats", "Fidelity, KL divergence (nats/token)"),
        ("size/checkpoint_gb", "Size, checkpoint (GB)"),
        ("gpu/utilization_mean_pct", "GPU, utilization mean (%)"),
    ],
)
def test_labels_come_from_keys_and_units(key: str, label: str) -> None:
    assert labels.label(key) == label
