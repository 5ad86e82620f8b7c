"""The examples of the documents, run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import larder_cache
from larder_cache import aio

PYTHON = Path(__file__).parent.parent
DOCUMENTS = [PYTHON / "README.md", PYTHON.parent / "docs" / "PYTHON.md"]
#: Blocks with a title belong to a Django project, which tests/django has.
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_examples_of_a_document_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = document.read_text()
    names: dict[str, Any] = {"__name__": "example"}
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        line = text.count("\n", 0, block.start()) + 1
        # Blank lines before it, so that a traceback shows the document's own line.
        exec(compile("\n" * line + block[1], str(document), "exec"), names)


@pytest.mark.parametrize("module", [larder_cache, aio], ids=lambda module: module.__name__)
def test_the_examples_of_a_docstring_run(module: ModuleType, request: pytest.FixtureRequest) -> None:
    outcome = doctest.testmod(module, extraglobs={"getfixture": request.getfixturevalue})
    assert outcome.attempted > 0 and outcome.failed == 0
