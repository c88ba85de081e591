"""A table of measurements is complete after every line."""

from __future__ import annotations

import json
from pathlib import Path

from ltx.bench.table import Table


def test_the_files_contain_every_line_as_soon_as_it_is_added(tmp_path: Path) -> None:
    table = Table(tmp_path / "out", "speed", {"device": "cpu"})
    assert json.loads((tmp_path / "out" / "speed.json").read_text())["lines"] == []
    for count in (1, 2):
        table.add("section", f"line {count}", f"{count} | images/s", rate=count)
        written = json.loads((tmp_path / "out" / "speed.json").read_text())
        assert [line["values"]["rate"] for line in written["lines"]] == list(range(1, count + 1))
        markdown = (tmp_path / "out" / "speed.md").read_text()
        assert markdown.count("## section") == 1
        assert f"| line {count} | {count} / images/s |" in markdown
