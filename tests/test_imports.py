"""The import rules of the house, checked by walking every module's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "transformer_lens"}
LIGHT = (
    "errors",
    "labels",
    "specs",
    "schemas",
    "store",
    "tokens",
    "annotations",
    "browse",
    "tree_growth",
    "results",
    "compare",
    "signed",
    "names",
    "imported_labels",
    "interop/labels_files",
    "interop/circuit_graph",
    "interop/export_tables",
    "interop/neuronpedia_records",
    "interop/report_html",
    "feature_selection",
    "table_making",
    "running",
    "explorer",
)
PACKAGES = ("sae_core", "precompute", "app")


def modules(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from (root / package).rglob("*.py")


def imports(path: Path) -> set[str]:
    """Dotted names a file imports anywhere, lazy imports included."""
    return _imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_at_load(path: Path) -> set[str]:
    """Dotted names imported when the module is loaded: not inside functions, not for type checkers only."""
    return _imports(_at_load(ast.parse(path.read_text(encoding="utf-8")).body))


def _at_load(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        for attribute in ("body", "orelse", "handlers", "finalbody"):
            yield from _at_load(getattr(node, attribute, []))


def _imports(nodes: Iterator[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def breaches(repository: Path, folder: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    """`file imports name` for every forbidden import below a folder."""
    return [
        f"{path.relative_to(repository)} imports {name}"
        for path in modules(repository)
        if path.relative_to(repository).as_posix().startswith(folder)
        and not path.relative_to(repository).as_posix().startswith(allowed or ("\0",))
        for name in imports(path)
        if any(name == rule or name.startswith(rule + ".") for rule in forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden", "allowed"),
    [
        ("app", ("precompute", "tests"), ()),
        ("precompute", ("app", "tests"), ()),
        ("sae_core", ("app", "precompute", "tests"), ()),
        ("app/figures", ("streamlit",), ()),
        ("", ("pyarrow.parquet",), ("sae_core/store.py",)),
        ("", ("transformer_lens",), ()),
        ("", ("pickle",), ()),
    ],
)
def test_forbidden_imports(repository: Path, folder: str, forbidden: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    assert breaches(repository, folder, forbidden, allowed) == []


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_nothing_heavy(repository: Path, name: str) -> None:
    """Followed through this project's own modules, so an indirect import counts too."""
    seen: set[Path] = set()
    waiting = [repository / "sae_core" / f"{name}.py"]
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        found = imports_at_load(path)
        assert not {n.split(".")[0] for n in found} & HEAVY, path
        waiting += [repository / (n.replace(".", "/") + ".py") for n in found if n.startswith("sae_core.")]


def test_the_walker_sees_lazy_and_skips_type_checking_imports(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import torch\ndef f():\n import pickle\n")
    assert {"torch", "pickle"} <= imports(path)
    assert imports_at_load(path) == {"typing", "typing.TYPE_CHECKING"}


def test_browsing_pages_never_load_torch(repository: Path) -> None:
    code = (
        "import sys; import app.state, app.links, app.palette, sae_core.browse; "
        "bad = {'torch', 'transformers', 'transformer_lens'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
