"""One self-contained HTML file: markup, style, script and data; nothing is loaded from elsewhere but pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from ltx.runtime.atomic_files import write_atomically

ASSETS = Path(__file__).parent / "assets"

SCRIPTS = {"results": ("common.js", "results.js", "viewer.js"), "scores": ("common.js", "scores.js")}
"""The scripts of each kind of page, in the order in which they run."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="ltx">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def write_page(file: Path, kind: str, title: str, data: dict[str, Any]) -> None:
    """Write a page of one of the kinds in `assets`.

    Names from users reach the page as data only; its script writes them as text. The content security policy lets no
    other script run, whatever a name contains.

    Args:
        file: the HTML file.
        kind: a key of `SCRIPTS`.
        title: of the window.
        data: what the page's script reads, as JSON.
    """
    style = (ASSETS / "page.css").read_text("utf-8")
    script = "".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS[kind])
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    page = PAGE.format(
        policy=policy,
        title=html.escape(title),
        style=style,
        body=(ASSETS / f"{kind}.html").read_text("utf-8"),
        data=as_json(data),
        script=script,
    )
    write_atomically(file, page.encode("utf-8", "replace"))


def as_json(data: Any) -> str:
    """JSON in ASCII that can stand in an HTML script element: nothing in it ends the element or starts a tag."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
