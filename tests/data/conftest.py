"""Photographs of two classes in files."""

from pathlib import Path

import pytest

from tests.support.small_inputs import write_photographs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = (f"class.{index % 2}/{index:02d}.v1.jpg" for index in range(28))
    return write_photographs(tmp_path_factory.mktemp("photos"), names, (24, 30))
