"""The notebooks of `examples/` run, and the documentation site shows them with their pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted((PROJECT / "examples").glob("*.py"))
PICTURES = {"explain_a_photograph": 5, "train_for_your_classifier": 2, "compare_methods": 2}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_open_as_notebooks(file: Path) -> None:
    notebook = jupytext.read(file)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert kinds.count("code") >= 5
    assert notebook.cells[0].source.startswith("# ")
    assert jupytext.reads(jupytext.writes(notebook, "ipynb"), "ipynb").cells[-1].source == notebook.cells[-1].source


def test_every_notebook_is_listed() -> None:
    for text in ((PROJECT / "examples" / "README.md").read_text(), (PROJECT / "mkdocs.yml").read_text()):
        for file in NOTEBOOKS:
            assert file.name in text


@pytest.mark.slow
def test_the_site_shows_executed_notebooks(shared_data: Path, tmp_path: Path) -> None:
    environment = os.environ | {"LTX_EXECUTE_NOTEBOOKS": "true", "LTX_PHOTOS": str(shared_data / "imagenette")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=3600)
    for name, count in PICTURES.items():
        page = (tmp_path / "site" / "examples" / f"{name}.html").read_text()
        assert len(re.findall(r'<img[^>]+src="data:image/png;base64,', page)) == count, name
        assert "Traceback" not in page
        assert "Warning" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
