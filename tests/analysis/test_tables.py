"""Tables: the record, its drawings, and the studies' tables from their published figures."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import frame, published, tables
from analysis.tables import Table
from tests.analysis.test_impact import run

SLIM_EVAL = published.frame("slim_eval")
BNB = published.frame("bnb_llama32_1b")
ODD = Table("50 % & more_", ("a|b", "x (ms)"), (("m_1 #{}", "1.50"), ("~^\\ <y>", "")), ("l", "r"), "note $1")


def records(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_csv_reads_back_and_unknown_is_empty() -> None:
    assert records(ODD) == [{"a|b": "m_1 #{}", "x (ms)": "1.50"}, {"a|b": "~^\\ <y>", "x (ms)": ""}]


def test_markdown_keeps_its_columns_and_shows_a_dash_for_unknown() -> None:
    lines = ODD.markdown().splitlines()
    assert lines[0] == r"**50 % & more\_**"
    assert lines[2:6] == [r"| a\|b | x (ms) |", "| --- | ---: |", r"| m\_1 #{} | 1.50 |", r"| ~^\\ \<y\> | - |"]
    assert lines[-1] == "note $1"


def test_latex_is_escaped_and_uses_booktabs() -> None:
    text = ODD.latex()
    assert r"\caption{50 \% \& more\_}" in text
    assert r"m\_1 \#\{\} & 1.50 \\" in text
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{} \textless{}y\textgreater{} & -- \\" in text
    assert r"\begin{tabular}{lr}" in text
    assert [rule for rule in ("\\toprule", "\\midrule", "\\bottomrule") if rule not in text] == []
    assert r"note \$1" in text


def test_wide_headers_are_broken_in_latex() -> None:
    wide = Table("t", ("a", "memory, required (MiB)", "mean latency (ms)"), (("1", "2", "3"),), ("l", "r", "l"))
    assert r"a & \shortstack[r]{memory, \\ required (MiB)} & \shortstack[l]{mean latency \\ (ms)} \\" in wide.latex()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_within_the_text(tmp_path: Path) -> None:
    cells = tuple(f"a long cell of column {n}" for n in range(12))
    wide = Table("All & sundry", tuple(f"column {n} of 100 % (MiB)" for n in range(12)), (cells,), ("l",) * 12, "A note_.")
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "t.tex").write_text("\n".join([head, wide.latex(), ODD.latex(), r"\end{document}"]))
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_no_cell_can_break_a_drawing(content: str) -> None:
    table = Table("t", ("h", "i"), ((content, "1"),), ("l", "r"))
    assert records(table) == [{"h": content, "i": "1"}]
    row = table.markdown().splitlines()[4]
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
    body = table.latex().partition("\\midrule\n")[2].partition("\n\\bottomrule")[0]
    assert len(re.findall(r"(?<!\\)&", body)) == 1
    assert not re.search(r"(?<!\\)[%#$_]", body)


def test_widths_must_agree() -> None:
    with pytest.raises(ValueError, match="table 't'"):
        Table("t", ("a", "b"), (("1",),), ("l", "r"))


def test_values_have_the_metrics_digits_and_unit() -> None:
    assert tables.header("size/checkpoint_gb", "size") == "size (GB)"
    assert tables.header("impact/speedup", "speed-up") == "speed-up"
    assert tables.cell("throughput/output_tokens_per_s", 12345.678) == "12345.7"
    assert tables.cell("accuracy/mmlu", float("nan")) == tables.cell("accuracy/mmlu", None) == ""


def test_slim_evals_tables() -> None:
    made = tables.slim_eval(SLIM_EVAL)
    assert list(made) == ["efficiency", "accuracy", "impact", "by_precision", "accuracy_drop"]
    assert [len(table.rows) for table in made.values()] == [13, 13, 8, 14, 8]
    first = records(made["efficiency"])[0]
    assert (first["size (GB)"], first["latency of a batch of 8 / 8 (ms)"], first["net energy (kWh)"]) == (
        "14.496",
        "183.00",
        "0.038400",
    )
    assert "Measured with vllm on A100-80GB." in made["efficiency"].note
    llama = next(r for r in records(made["impact"]) if "Llama" in r["model"] and r["precision"] == "gptq-int8")
    assert (llama["speed-up"], llama["energy reduction (%)"], llama["size reduction (%)"]) == ("2.172", "35.24", "7.02")
    assert "Speed-up from latency/amortized_b8_ms" in made["impact"].note
    speed = next(r for r in records(made["by_precision"]) if r["precision"] == "gptq-int4" and r["figure"] == "speed-up")
    assert (speed["mean"], speed["sd"], speed["models"]) == ("1.303", "0.372", "4")
    assert records(made["accuracy_drop"])[1]["gsm8k (%)"] == "-9.00"


def test_the_bitsandbytes_studys_tables() -> None:
    made = tables.bitsandbytes(BNB)
    assert list(made) == ["accuracy", "mmlu_groups", "relative_accuracy", "performance"]
    assert [len(table.rows) for table in made.values()] == [4, 4, 4, 8]
    assert [r["stem"] for r in records(made["mmlu_groups"])] == ["0.3423", "0.3387", "0.3271", "0.2582"]
    nf4 = records(made["relative_accuracy"])[3]
    assert (nf4["mmlu"], nf4["social sciences"], nf4["gsm8k"]) == ("0.7313", "0.6486", "0.4675")


def test_performance_has_the_printed_speed_ups() -> None:
    printed = published.printed("bnb_performance")
    names = published.study("bnb_llama32_1b").precisions
    made = {(r["precision"], r["workload"]): r for r in records(tables.performance(BNB))}
    for _, row in printed.iterrows():
        shown = made[names[row["precision"]], {"batch1": "batch 1", "max_batch": "largest batch"}[row["workload"]]]
        assert float(shown["speed-up"]) == pytest.approx(row["speedup"], abs=6e-4)
        assert float(shown["rate (req/s)"]) == pytest.approx(row["requests_per_s"], abs=6e-4)
        assert float(shown["mean memory (MiB)"]) == pytest.approx(row["vram_mean_mb"], abs=0.06)


def test_a_configuration_without_a_baseline_is_in_the_table_with_the_reason() -> None:
    table = tables.changes(frame.from_runs([run("m/gptq-int8@vllm", latency__e2e_mean_ms=1.0)]))
    assert [row[:2] for row in table.rows] == [("m", "gptq-int8")]
    assert "m/gptq-int8@vllm: no baseline (bf16 or fp16) of m on vllm and H100" in table.note


def test_the_engines_effect_has_its_table() -> None:
    runs = [run("m/bf16@vllm", latency__e2e_mean_ms=10.0), run("m/bf16@transformers", latency__e2e_mean_ms=25.0)]
    (row,) = records(tables.engine_effect(frame.from_runs(runs)))
    assert (row["engine"], row["reference engine"], row["speed-up"]) == ("vllm", "transformers", "2.500")
    assert "engine_effect" in tables.every(frame.from_runs(runs))


def test_published_figures_have_tables_of_their_own() -> None:
    ruled_out = tables.dominated(published.dominated("bnb_llama32_1b"))
    assert ("llama-3.2-1b/bf16@transformers", "llama-3.2-1b/fp16@transformers") in {row[:2] for row in ruled_out.rows}
    beside = records(tables.beside_published(SLIM_EVAL.assign(hardware="mine"), "slim_eval"))
    mmlu = next(row for row in beside if row["figure"] == "accuracy/mmlu (fraction)")
    assert (mmlu["hardware"], mmlu["published hardware"], mmlu["own"], mmlu["published"]) == (
        "mine",
        "A100-80GB",
        "0.6180",
        "0.6180",
    )


def test_what_a_frame_has_no_figures_for_has_no_rows() -> None:
    empty = frame.from_runs([])
    assert tables.every(empty) == {}
    for made in (*tables.slim_eval(empty).values(), *tables.bitsandbytes(empty).values()):
        assert made.rows == ()
        assert made.latex()
        assert made.markdown()
    assert "performance" not in tables.every(SLIM_EVAL)
    assert "mmlu_groups" not in tables.every(SLIM_EVAL)


@settings(max_examples=15)
@given(st.permutations(range(13)))
def test_precisions_have_one_order(order: list[int]) -> None:
    made = tables.efficiency(SLIM_EVAL.iloc[order])
    by_model = pd.DataFrame(made.rows).groupby(0, sort=False)[1].agg(tuple)
    assert set(by_model) <= {("fp16", "gptq-int8", "gptq-int4"), ("fp16",)}
