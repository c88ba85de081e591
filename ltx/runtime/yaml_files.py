"""Reading of YAML that may come from a stranger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
"""A few lines of aliases can stand for billions of nodes."""


def read_yaml(file: Path) -> Any:
    """Read a YAML file of plain values.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is not UTF-8.
        yaml.YAMLError: it is not valid YAML, contains Python objects, or is larger than the limits.
    """
    text = yaml_text(file)
    try:
        return yaml.safe_load(text)
    except (ValueError, OverflowError) as error:  # such as the 31st of February
        raise yaml.YAMLError(str(error)) from error


def yaml_text(file: Path) -> str:
    """Read the text of a YAML file that is within the limits; raises the errors of `read_yaml`."""
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise yaml.YAMLError(f"larger than {MAX_BYTES} bytes")
    text = content.decode("utf-8")
    try:
        if _size(yaml.compose(text, yaml.SafeLoader), {}) > MAX_NODES:
            raise yaml.YAMLError(f"aliases stand for more than {MAX_NODES} values")
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    return text


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """The number of values below a node, each alias counted as what it stands for."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # of a node that contains itself
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
