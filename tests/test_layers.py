"""Who imports whom, and what starts without the heavy packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"slim": set(), "analysis": {"slim"}, "entrypoints": {"slim", "analysis"}}
HEAVY = ("torch", "vllm", "llmcompressor", "transformers", "bitsandbytes", "lm_eval", "ray", "datasets")


def modules(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imported(path: Path, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    forbidden = set(LAYERS) - LAYERS[layer] - {layer}
    for path in modules(layer):
        assert not {name.partition(".")[0] for name in imported(path)} & forbidden, path


def test_only_the_store_and_the_registry_import_mlflow() -> None:
    importers = {
        p.relative_to(ROOT).as_posix() for p in modules("slim") if any(n.partition(".")[0] == "mlflow" for n in imported(p))
    }
    assert importers
    assert all(name.startswith(("slim/store/", "slim/registry")) for name in importers)


def test_the_library_does_not_know_click() -> None:
    for layer in ("slim", "analysis"):
        for path in modules(layer):
            assert "click" not in {name.partition(".")[0] for name in imported(path)}, path


@pytest.mark.parametrize(
    "statement",
    [
        "import slim.api, slim.plan, slim.worker, slim.evaluate, slim.quantize, slim.engines, slim.profile",
        "import analysis.study, analysis.evidence, analysis.summary, analysis.impact, analysis.items",
        *(f"import entrypoints.{p.stem}" for p in sorted((ROOT / "entrypoints").glob("[a-z]*.py"))),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
