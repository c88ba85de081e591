"""The page as text: what users name cannot leave its data element, and only the page's own script may run."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ltx.report.page import as_json, write_page
from ltx.report.results_page import write_results_page
from tests.support.results_folder import NASTY, write_results


class Elements(HTMLParser):
    """Tags in order, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")
        if dict(attributes).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attributes)["content"] or ""

    def handle_data(self, text: str) -> None:
        if self.tags and self.tags[-1] == "script" and not self.scripts[-1]:
            self.scripts[-1] = text


def test_names_of_users_add_no_element(tmp_path: Path) -> None:
    plain = write_results(tmp_path / "plain", [f"{index}.jpg" for index in range(len(NASTY))])
    nasty = write_results(tmp_path / "nasty", NASTY, labels=["</script><b>", "'\"><svg onload=alert(1)>", "<!--"])
    write_results_page([plain], plain / "index.html")
    write_results_page([nasty], nasty / "index.html")
    pages = [Elements((folder / "index.html").read_text("utf-8")) for folder in (plain, nasty)]
    assert pages[0].tags == pages[1].tags
    data = json.loads(pages[1].scripts[0])
    assert data["runs"][0]["image"] == [f"photos/{name}" for name in NASTY]
    assert data["runs"][0]["label"]["values"][0] == "</script><b>"


def test_the_policy_allows_exactly_the_script_of_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", "results", "<title>", {"runs": []})
    text = (tmp_path / "index.html").read_text("utf-8")
    page = Elements(text)
    allowed = re.findall(r"script-src ([^;]*)", page.policy)[0].strip()
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert allowed == f"'sha256-{digest}'"
    assert page.policy.startswith("default-src 'none'")
    assert "<title>&lt;title&gt;</title>" in text
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "&lt;", "\u2028", "\udcff", "ü", 'a"b\\c'])
def test_json_is_ascii_without_markup_and_reads_back(text: str) -> None:
    written = as_json({"name": text})
    assert written.isascii()
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"name": text}
