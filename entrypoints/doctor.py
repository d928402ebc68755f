"""Say what this machine and these packages can run: each precision on each engine, and why not.

No engine is started and nothing is written to the store. Exit code 0 when at least an unquantized model runs, 1 otherwise.
"""

import json
import sys
from dataclasses import asdict

import click

from entrypoints import _options as opt
from slim import doctor, provenance

_STYLES = {doctor.Verdict.YES: "green", doctor.Verdict.NOTE: "yellow", doctor.Verdict.NO: "red"}


@click.command(help=__doc__)
@click.option("--python", type=opt.TEXT, default="", help="Python interpreter of the workers.  [default: this one]")
@click.option(
    "--quantize-python",
    type=opt.TEXT,
    default="",
    help="Python interpreter of quantizing workers, when it is another one.  [default: the one of --python]",
)
@click.option("--json", "as_json", **opt.FLAG, help="Print the environments and findings as JSON.")
@opt.entry_point
def main(python: str | None, quantize_python: str | None, as_json: bool) -> None:
    """Parse, look, print."""
    measure = provenance.probe(python)
    quantize = provenance.probe_interpreter(quantize_python) if quantize_python else None
    findings = doctor.diagnose(measure, doctor.read_machine(), quantize)
    runs = doctor.baseline_runs(findings)
    if as_json:
        values = {
            "measure": measure.to_json(),
            "quantize": (quantize or measure).to_json(),
            "findings": [asdict(finding) for finding in findings],
            "baseline_runs": runs,
        }
        click.echo(json.dumps(values, indent=2))
    else:
        _print(measure, findings, runs)
    opt.explain_joined_run("The doctor only looks; see its output.")
    sys.exit(0 if runs else 1)


def _print(measure: provenance.Environment, findings: list[doctor.Finding], runs: bool) -> None:
    """Two tables and a sentence."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for title, wanted in (("Precisions", True), ("Everything else", False)):
        table = Table("", "works", "with, or why not", title=title, title_justify="left")
        table.columns[0].no_wrap = True
        for finding in findings:
            if finding.is_configuration is wanted:
                style = _STYLES[finding.verdict]
                table.add_row(finding.subject, f"[{style}]{finding.verdict}[/{style}]", escape(finding.detail))
        console.print(table)
    verdict = "An unquantized model runs" if runs else "No unquantized model runs, so there is nothing to compare with"
    console.print(f"{verdict} (Python {measure.python}, {measure.platform}).", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
