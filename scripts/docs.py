"""Write the pages that are made from code, or check that what is written is what the code says."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from slim import metrics  # noqa: E402

METRICS_HEADER = """\
# Metrics

Written by `make docs` from `slim/metrics.py`. In a key, `<task>` stands for a task's name, `<n>` for a number, `<r>` for
a rate, `<b>` for `b1` or `bmax`, and `<s>` for `mean`, `p50`, `p95` or `p99`. `better` says whether higher (+) or lower (-) is better. Beside a metric, `_ci_low` and
`_ci_high` bound its 95 % interval where repeats or samples allow one. What is unknown is absent, never 0.

"""


def main() -> int:
    """Parse, write or compare, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is stale")
    check = parser.parse_args().check
    page, text = ROOT / "docs" / "metrics.md", METRICS_HEADER + metrics.markdown_table()
    if not check:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        print(f"error: {page.relative_to(ROOT)} is not what slim/metrics.py says; `make docs` writes it anew", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
