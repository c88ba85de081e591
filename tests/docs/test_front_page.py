"""The front page of the site runs an exported explainer if there is one, and shows a picture otherwise."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.support.documentation import PROJECT

INDEX = PROJECT / "docs" / "index.md"


@pytest.fixture
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="the extra [docs] is not installed")
    spec = importlib.util.spec_from_file_location("hooks", PROJECT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path: Path) -> Any:
    return SimpleNamespace(extra={"exported_page": str(tmp_path / "exported")}, site_dir=str(tmp_path / "site"))


def front_page(hooks: ModuleType, config: Any) -> str:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    return hooks.on_page_markdown(INDEX.read_text(encoding="utf-8"), page, config, None)


def export_page(config: Any) -> Path:
    folder = Path(config.extra["exported_page"])
    (folder / "runtime").mkdir(parents=True)
    (folder / "index.html").write_text("<p>exported</p>")
    (folder / "runtime" / "ort.mjs").write_text("")
    return folder


def test_without_an_export_there_is_a_picture(hooks: ModuleType, config: Any) -> None:
    assert "](page.jpg)" in front_page(hooks, config)
    assert "<iframe" not in front_page(hooks, config)
    hooks.on_post_build(config)
    assert not (Path(config.site_dir) / "page").exists()


def test_an_exported_explainer_takes_the_place_of_the_picture(hooks: ModuleType, config: Any) -> None:
    export_page(config)
    text = front_page(hooks, config)
    assert text.count("<iframe") == 1
    assert 'src="page/index.html"' in text
    assert "](page.jpg)" not in text
    hooks.on_post_build(config)
    copied = {path.relative_to(config.site_dir).as_posix() for path in Path(config.site_dir).rglob("*.*")}
    assert copied == {"page/index.html", "page/runtime/ort.mjs"}


def test_other_pages_stay_as_they_are(hooks: ModuleType, config: Any) -> None:
    export_page(config)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="export.md"))
    assert hooks.on_page_markdown("<!-- explainer -->", page, config, None) == "<!-- explainer -->"


def test_the_published_site_exports_before_it_is_built() -> None:
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "docs.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["site"]["steps"]]
    export = next(index for index, step in enumerate(steps) if step.startswith("ltx export"))
    assert "mkdocs build --strict" in steps[export + 1]
    folder = re.search(r"out=(\S+)/", steps[export])
    assert folder is not None
    assert f"!ENV [LTX_EXPORTED_PAGE, {folder[1]}]" in (PROJECT / "mkdocs.yml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("exported", [False, True])
def test_the_site_is_built_with_and_without_it(config: Any, exported: bool) -> None:
    if exported:
        export_page(config)
    environment = os.environ | {"LTX_EXPORTED_PAGE": config.extra["exported_page"]}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", config.site_dir]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=600)
    text = (Path(config.site_dir) / "index.html").read_text()
    assert ('<iframe class="explainer"' in text) is exported
    assert ('src="page.jpg"' in text) is not exported
    assert (Path(config.site_dir) / "page" / "index.html").exists() is exported
