"""The report of a study: what it says, and that it works in a browser where there is one."""

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import figures, report
from analysis.report.render import embedded
from analysis.tables import Table
from slim.errors import UserError
from tests.analysis.test_figures import everything, made

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=f"no {', '.join(BROWSERS)} on this machine")


def frame() -> pd.DataFrame:
    """Two models on one machine, one more on another, one that failed, one without energy."""
    found = everything()
    found.loc["b-3b-gptq-int4", "energy/net_j_per_query"] = None
    found.loc["a-1b-gptq-int8", "validity"] = "warmup_unsettled"
    other = made({"id": "t4", "model": "a-1b", "precision": "bf16", "hardware": "T4", "accuracy/mean": 0.9,
                  "latency/e2e_mean_ms": 1.0, "failure": None})  # fmt: skip
    failed = made({"id": "f", "model": "a-1b", "precision": "gptq-int4", "status": "FAILED", "failure": "out_of_memory"})
    return pd.concat([found, other, failed])


def data(**changes: Any) -> report.ReportData:
    answer = report.Recommendation(
        "balanced",
        "a-1b/gptq-int4@vllm",
        "Nearest to the ideal point.",
        "a-1b/gptq-int8@vllm, 4 % farther.",
        "On the front in 97 % of resamplings.",
        report.costs_of(frame(), "a-1b-gptq-int4"),
    )
    nothing = report.Recommendation("latency under 1 ms", None, "The nearest is a-1b/gptq-int4@vllm at 211 ms.")
    table = Table("Relative accuracy", ("precision", "MMLU"), (("gptq-int8", "98.0"),), ("l", "r"), "per cent")
    built = report.build(
        frame(), "A study", recommendations=(answer, nothing), facts=(("vllm", "0.17.0"),), tables=(table,), notes=("A note.",)
    )
    return replace(built, **changes)


def test_a_report_is_built_from_a_frame() -> None:
    built = data()
    assert built.facts == (
        ("vllm", "0.17.0"),
        ("Configurations", "7"),
        ("Models", "a-1b, b-3b"),
        ("Engines", "vllm"),
        ("Hardware", "H200, T4"),
    )
    assert [c.run_id for c in built.configurations][-1] == "t4"
    assert built.left_out == (report.Reason("a-1b/gptq-int4@vllm", "out of memory"),)
    assert built.flagged == (report.Reason("a-1b/gptq-int8@vllm", "warmup unsettled"),)
    assert built.views[0] == report.View("Accuracy against latency", "latency/e2e_mean_ms", "accuracy/mean")
    assert built.configurations[0].intervals == {"latency/e2e_mean_ms": (390.0, 410.0)}
    missing = next(c for c in built.configurations if c.run_id == "b-3b-gptq-int4")
    assert "energy/net_j_per_query" not in missing.values
    assert "fidelity/perplexity" not in {c.key for c in built.columns}


def test_costs_are_against_the_baseline_and_turned_by_direction() -> None:
    costs = {c.label: c for c in report.costs_of(frame(), "a-1b-gptq-int4")}
    assert costs["Latency"] == report.Cost("Latency", "211 ms", "−47.4 %", True)
    assert costs["Throughput"] == report.Cost("Throughput", "5,700 tok/s", "+90.0 %", True)
    assert costs["Accuracy"] == report.Cost("Accuracy", "0.4900", "−10.9 %", False)
    baseline = {c.label: c for c in report.costs_of(frame(), "a-1b-bf16")}
    assert baseline["Latency"] == report.Cost("Latency", "400 ms")
    assert "Energy" not in {c.label for c in report.costs_of(frame(), "b-3b-gptq-int4")}


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(UserError, match="latency/e2e_men_ms"):
        report.build(frame().assign(**{"latency/e2e_men_ms": 1.0}), "x", asked=["latency/e2e_men_ms"])


def test_the_answer_comes_first_and_everything_is_said() -> None:
    page = report.render(data())
    said = [
        "Deploy <span",
        "On the front in 97 % of resamplings.",
        "a-1b/gptq-int8@vllm, 4 % farther.",
        "Nothing qualifies",
        "The nearest is a-1b/gptq-int4@vllm at 211 ms.",
        'id="pareto"',
        'id="configurations"',
        "Relative accuracy",
        "out of memory",
        "<dd>warmup unsettled",
        "A note.",
    ]
    places = [page.find(text) for text in said]
    assert -1 not in places and places == sorted(places)


def test_the_page_is_the_same_twice_and_needs_nothing_else() -> None:
    page = report.render(data())
    assert page == report.render(data())
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]
    without_namespace = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|localStorage|fetch\(|src=\"(?!data:)|href=", without_namespace)
    assert "default-src 'none'" in page


def test_text_cannot_become_markup() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    evil = replace(data().configurations[0], name=hostile, model=hostile, flagged=hostile)
    page = report.render(data(title=hostile, configurations=(evil,), notes=(hostile,), facts=((hostile, hostile),)))
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    content = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(content)["configurations"][0]["name"] == hostile


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    wrong = replace(data().configurations[0], values={"accuracy/mean": value})
    with pytest.raises(ValueError, match="not finite"):
        embedded(data(configurations=(wrong,)))


class Balanced(HTMLParser):
    """Fails on an element that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("bare", [False, True])
def test_the_page_is_well_formed_with_much_and_with_nothing(bare: bool) -> None:
    empty = report.build(frame().iloc[:0], "Nothing yet")
    checker = Balanced()
    checker.feed(report.render(empty if bare else data()))
    assert checker.open == []


def test_figures_are_embedded_and_those_not_drawn_say_why(tmp_path: Path) -> None:
    drawn = figures.draw_all(frame(), None, tmp_path)
    page = report.render(report.build(frame(), "x", drawn=drawn))
    assert page.count('src="data:image/svg+xml;base64,') == sum(d.absent is None for d in drawn) > 5
    assert "no raw samples" in page
    drawn = figures.draw_all(frame(), None, tmp_path / "png", ("png",))
    assert 'src="data:image/png;base64,' in report.render(report.build(frame(), "x", drawn=drawn))


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = report.write(data(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == report.render(data())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


COLLECT = """
<script>
const collected = { errors: window.errors };
const $ = (id) => document.getElementById(id);
const front = () => [...document.querySelectorAll('.point[data-on-front="true"]')].map((n) => n.dataset.id);
const change = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change", { bubbles: true })); };
const order = () => [...document.querySelectorAll("#table tbody tr")].map((row) => row.dataset.id);
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
setTimeout(() => {
  try { (() => { STEPS })(); } catch (error) { collected.errors.push(String(error)); }
  REPORT
}, 50);
</script>
"""


def browse(tmp_path: Path, steps: str, *, sandboxed: bool = False, size: str = "1280,900") -> dict[str, Any]:
    """Open the report in a browser, run steps in it and return what they collected."""
    watch = "<script>window.errors = []; window.onerror = (m) => { window.errors.push(String(m)); };</script>"
    told = "JSON.stringify(collected)"
    tell = (
        f'parent.postMessage({told}, "*");'
        if sandboxed
        else f'const pre = document.createElement("pre"); pre.id = "collected"; pre.textContent = {told}; document.body.append(pre);'
    )
    page = report.render(data()).replace("<style>", watch + "<style>", 1)
    page = page.replace("</body>", COLLECT.replace("STEPS", steps).replace("REPORT", tell) + "</body>")
    path = tmp_path / "page.html"
    if sandboxed:
        outer = (
            "<!doctype html><body><script>addEventListener('message', (e) => { const pre = document.createElement('pre');"
            "pre.id = 'collected'; pre.textContent = e.data; document.body.append(pre); });</script>"
            f'<iframe sandbox="allow-scripts" width="1000" height="800" srcdoc="{html.escape(page)}"></iframe></body>'
        )
        path.write_text(outer, encoding="utf-8")
    else:
        path.write_text(page, encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
               "--disable-features=IsolateSandboxedIframes",  # else the frame's clock is not the one that is waited for
               f"--user-data-dir={tmp_path / 'profile'}",
               f"--window-size={size}", "--virtual-time-budget=3000", "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="collected">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    collected: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert collected["errors"] == []
    return collected


@needs_browser
def test_the_pareto_view_draws_and_updates_the_front(tmp_path: Path) -> None:
    found = browse(
        tmp_path,
        """
        collected.views = [...$("views").children].map((b) => b.textContent);
        collected.points = document.querySelectorAll(".point").length;
        collected.first = front();
        collected.joined = document.querySelector(".front").dataset.front.split(" ");
        change("model", "b-3b"); collected.model = front();
        change("model", "");
        change("axis-x", "energy/net_j_per_query"); collected.energy = front(); collected.missing = $("missing").textContent;
        change("axis-y", "throughput/output_tokens_per_s"); collected.throughput = front();
        change("hardware", "T4"); collected.nothing = document.querySelector("#plot svg").textContent;
        [...$("views").children][0].click(); collected.other = front();
        collected.pressed = [...$("views").children].map((b) => b.getAttribute("aria-pressed"));
        collected.bad = document.querySelector("#plot svg").outerHTML.includes("NaN");
        """,
    )
    assert found["views"][0] == "Accuracy against latency"
    assert found["points"] == 6
    expected = pareto_ids(["latency/e2e_mean_ms", "accuracy/mean"])
    assert set(found["first"]) == set(found["joined"]) == expected
    assert set(found["model"]) == {"b-3b-bf16", "b-3b-gptq-int8", "b-3b-gptq-int4"}
    assert set(found["energy"]) == pareto_ids(["energy/net_j_per_query", "accuracy/mean"])
    assert found["missing"] == "1 of 6 configurations lack one of the two and are not shown."
    assert set(found["throughput"]) == {"a-1b-gptq-int4"}
    assert "No configuration has both metrics" in found["nothing"]
    assert found["other"] == ["t4"]
    assert found["pressed"][0] == "true" and set(found["pressed"][1:]) == {"false"}
    assert found["bad"] is False


def pareto_ids(objectives: list[str]) -> set[str]:
    """The front of the first machine as the library computes it."""
    from analysis import pareto

    shown = frame()
    shown = shown[(shown["status"] == "FINISHED") & (shown["hardware"] == "H200")]
    mask = pareto.front(shown, objectives)
    return set(shown.index[mask])


@needs_browser
def test_points_are_reached_by_keyboard_and_mouse(tmp_path: Path) -> None:
    found = browse(
        tmp_path,
        """
        const nodes = [...document.querySelectorAll(".point")];
        collected.stops = nodes.filter((n) => n.getAttribute("tabindex") === "0").length;
        nodes[0].focus(); press(nodes[0], "ArrowRight");
        collected.focused = document.activeElement === nodes[1];
        collected.details = $("details").textContent;
        collected.row = document.querySelector("#table tr.chosen").dataset.id === nodes[1].dataset.id;
        press(nodes[1], "End"); collected.last = document.activeElement === nodes[nodes.length - 1];
        press(document.activeElement, "Escape"); collected.hidden = document.querySelector(".tip").hidden;
        nodes[2].dispatchEvent(new MouseEvent("mouseenter")); collected.tip = document.querySelector(".tip").innerText;
        nodes[2].dispatchEvent(new MouseEvent("mouseleave")); collected.gone = document.querySelector(".tip").hidden;
        collected.labels = nodes.map((n) => n.getAttribute("aria-label"));
        """,
    )
    assert found["stops"] == 1 and found["focused"] and found["row"] and found["last"] and found["hidden"] and found["gone"]
    assert "a-1b/gptq-int8@vllm" in found["details"] and "Flagged: warmup_unsettled" in found["details"]
    assert "Latency, E2E mean (ms): 400.00 (390.00 to 410.00)" in found["tip"]
    assert all("On the front" in label or "Dominated by " in label for label in found["labels"])


@needs_browser
def test_the_table_sorts_by_number_with_the_unknown_last(tmp_path: Path) -> None:
    found = browse(
        tmp_path,
        """
        const headings = [...document.querySelectorAll("#table thead th")];
        const energy = headings.find((h) => h.textContent.includes("Energy"));
        energy.querySelector("button").click(); collected.up = order(); collected.sort = energy.getAttribute("aria-sort");
        energy.querySelector("button").click(); collected.down = order();
        headings[0].querySelector("button").click(); collected.names = order();
        collected.sorted = document.querySelectorAll("#table th[aria-sort]").length;
        """,
    )
    known = frame().query("status == 'FINISHED'")["energy/net_j_per_query"].dropna().sort_values()
    assert found["up"][: len(known)] == list(known.index) and found["sort"] == "ascending"
    assert found["down"][: len(known)] == list(known.index[::-1])
    assert set(found["up"][len(known) :]) == set(found["down"][len(known) :]) == {"b-3b-gptq-int4", "t4"}
    assert found["names"][0] in ("a-1b-bf16", "t4") and found["sorted"] == 1


@needs_browser
def test_it_works_in_a_sandboxed_frame_as_tracking_servers_show_artifacts(tmp_path: Path) -> None:
    found = browse(tmp_path, 'change("model", "b-3b"); collected.front = front();', sandboxed=True)
    assert set(found["front"]) == {"b-3b-bf16", "b-3b-gptq-int8", "b-3b-gptq-int4"}


@needs_browser
@pytest.mark.parametrize("size", ["390,987", "1280,900"])
def test_nothing_is_wider_than_the_window_and_the_answer_is_on_the_first_screen(tmp_path: Path, size: str) -> None:
    found = browse(
        tmp_path,
        """
        collected.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        collected.answer = document.querySelector(".answer h2").getBoundingClientRect().bottom;
        collected.sure = document.querySelector(".sure").getBoundingClientRect().bottom;
        collected.height = window.innerHeight;
        """,
        size=size,
    )
    assert found["overflow"] <= 0
    assert found["answer"] < found["sure"] < found["height"]


def test_importing_it_loads_neither_matplotlib_nor_jinja2() -> None:
    code = "import sys, analysis.figures, analysis.report; print([m for m in ('matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
