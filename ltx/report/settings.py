"""The settings of `ltx report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ltx.config.options import option
from ltx.runtime.errors import InputError


@dataclass
class ReportConfig:
    """Which folders of results to show, and where to write the page."""

    POSITIONAL: ClassVar[str] = "folders"
    USAGE: ClassVar[str] = " FOLDER [FOLDER]"
    EXAMPLE: ClassVar[str] = "runs/explanations"

    folders: Any = option([], help="one folder of results, or two whose results are compared image by image", path=True)
    out: str | None = option(
        None, help="HTML file to write; null = index.html in the folder, or compare.html in the first of two", path=True
    )

    def __post_init__(self) -> None:
        folders = [self.folders] if isinstance(self.folders, str) else list(self.folders or [])
        if not 1 <= len(folders) <= 2 or not all(isinstance(folder, str) for folder in folders):
            raise InputError(
                f"ltx report takes one or two folders of results, not {len(folders)}; write ltx report FOLDER"
            )
        if self.out is not None and not self.out.endswith(".html"):
            raise InputError(f"out={self.out} is not an HTML file; give a name that ends in .html")
        self.folders = folders
