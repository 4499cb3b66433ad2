"""The examples of docs/python.md are executed in order, and print what the page says they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = "# -> "


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def shown(block: str) -> list[str]:
    """The lines that a block says it prints."""
    return [line.removeprefix(SHOWN) for line in block.splitlines() if line.startswith(SHOWN)]


def printed(block: str, namespace: dict) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "docs/python.md", "exec"), namespace)
    return out.getvalue().splitlines()


@pytest.mark.timeout(240)
def test_every_block_prints_what_the_page_says(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    found = blocks(repository / "docs" / "python.md")
    assert len(found) > 10
    namespace: dict = {}
    for block in found:
        assert shown(block), f"a block that shows nothing:\n{block}"
        assert printed(block, namespace) == shown(block), block


def test_a_wrong_line_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n```python\nx = 2\nprint(x)\n# -> 3\n```\n\n```sh\nnot python\n```\n")
    (block,) = blocks(page)
    assert shown(block) == ["3"] and printed(block, {}) == ["2"]
