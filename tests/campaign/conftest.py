"""Fixtures of the campaign."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.campaign.arena import SEED, Arena, build


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    return build(tmp_path_factory.mktemp("arena"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of its own for each case, from the seed of the campaign."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "case"
