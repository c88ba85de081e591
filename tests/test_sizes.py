"""Files and functions stay short enough to read on a few screens."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 11


def sources() -> Iterator[Path]:
    for folder in ("ltx", "tests"):
        yield from sorted((PROJECT / folder).rglob("*.py"))


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_no_file_is_too_long() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in sources()}
    assert len(lengths) > 200, "the files were not found"
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    too_long = [
        f"{file.relative_to(PROJECT)}:{node.lineno} {node.name}"
        for file in sources()
        for node in functions(file)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert too_long == []


def test_settings_objects_replace_long_parameter_lists() -> None:
    too_many = [
        f"{file.relative_to(PROJECT)}:{node.lineno} {node.name}"
        for file in sources()
        if "ltx" in file.relative_to(PROJECT).parts
        for node in functions(file)
        if len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) > MOST_PARAMETERS + 1
    ]
    assert too_many == []
