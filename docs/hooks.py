"""Hooks of mkdocs: the notebooks of `examples/` become pages of the site."""

import os
from pathlib import Path
from typing import Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).parents[1]


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
