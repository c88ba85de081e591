"""Hooks of mkdocs: the notebooks of `examples/` become pages of the site, and the front page runs an explainer."""

import os
import re
import shutil
from pathlib import Path
from typing import Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]

PICTURE = re.compile(r"<!-- explainer -->.*?<!-- /explainer -->", re.DOTALL)
"""What the front page shows if no explainer was exported for it."""

EXPLAINER = """<iframe class="explainer" title="Explain a photograph in this browser" src="page/index.html"
onload="const shown = this.contentDocument; if (shown) new ResizeObserver(() => {
  this.style.height = shown.body.scrollHeight + 'px'; }).observe(shown.body)"></iframe>"""
"""The exported page, as high as its content."""


def on_startup(command: Literal["build", "gh-deploy", "serve"], dirty: bool) -> None:
    """Keep warnings, such as those on missing widgets, out of the output of notebooks: their kernels inherit this."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, which are outside of `docs/`."""
    for notebook in sorted((PROJECT / "examples").glob("*.py")):
        page = File(f"examples/{notebook.name}", str(PROJECT), config.site_dir, config.use_directory_urls)
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to notebooks into those to their pages, and put the exported explainer in the place of its picture."""
    markdown = markdown.replace("](../examples/", "](examples/")
    if page.file.src_uri != "index.md":
        return markdown
    assert len(PICTURE.findall(markdown)) == 1
    return PICTURE.sub(lambda _: EXPLAINER, markdown) if exported(config) else markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Copy the exported explainer into the site."""
    if exported(config):
        shutil.copytree(exported_folder(config), Path(config.site_dir) / "page", dirs_exist_ok=True)


def exported(config: MkDocsConfig) -> bool:
    """Whether `ltx export out=build/page/` was run before."""
    return (exported_folder(config) / "index.html").is_file()


def exported_folder(config: MkDocsConfig) -> Path:
    return PROJECT / config.extra["exported_page"]
