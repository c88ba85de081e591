"""YAML of a stranger: no code, and no more memory than its size."""

from pathlib import Path

import pytest
import yaml

from ltx.runtime.yaml_files import MAX_BYTES, read_yaml


def test_plain_values_and_a_few_aliases(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x [1, 2.5, ~]\nb: {c: *x, d: true}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5, None], "b": {"c": [1, 2.5, None], "d": True}}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]),
        "a: &a [*a]",
        "!!python/object/apply:os.system [echo]",
        "[" * 5000,
        "a: 2024-02-31",
        "x" * (MAX_BYTES + 1),
        "\x00",
    ],
)
def test_bombs_and_objects_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError):
        read_yaml(tmp_path / "a.yaml")
