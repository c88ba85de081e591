"""Names of pieces change with the source code they depend on, and with nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ltx.evaluation import plan, sources
from ltx.evaluation.plan import build
from ltx.evaluation.sources import PACKAGE, imported_modules, source_hash
from tests.support.small_evaluations import settings


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's source."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "ltx", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def name(package: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`name(method)`: the name of the method's first piece, computed from the copied source."""
    monkeypatch.setattr(plan, "source_hash", lambda modules, leaves: source_hash(modules, leaves, package))
    evaluations = {}

    def piece_name(method: str) -> str:
        if method not in evaluations:
            evaluations[method] = build(settings(place, tmp_path / "out", methods=[method]))
        evaluation = replace(evaluations[method], _paths={})
        sources._direct_imports.cache_clear()
        return evaluation.piece_path(evaluation.methods[0], 0).name

    yield piece_name
    sources._direct_imports.cache_clear()


def append(file: Path) -> None:
    file.write_text(file.read_text() + "\n# changed\n")


def test_source_that_a_piece_depends_on_changes_its_name(name, package: Path):
    names = [name("gradcam")]
    for file in [
        "attribution/gradcam.py",
        "attribution/feature_layers.py",
        "classifier/classifier.py",
        "metrics/ltx_protocol.py",
        "metrics/perturbation.py",
        "masking/fill.py",
        "data/reading.py",
        "evaluation/computation.py",
        "evaluation/samples.py",
        "evaluation/methods.py",
        "attribution/attribute.py",
    ]:
        append(package / file)
        names.append(name("gradcam"))
        assert names[-1] != names[-2], file


def test_other_source_does_not_change_the_name_of_a_piece(name, package: Path):
    before = name("gradcam")
    for file in package.rglob("*.py"):
        folder = file.relative_to(package).parts[0]
        if folder in ("bench", "cli", "pretraining", "finetuning", "analysis", "objectives", "explainers"):
            append(file)
    others = ["attribution/iia.py", "attribution/rise.py", "attribution/registry.py", "metrics/sensitivity.py"]
    for file in [*others, "metrics/information.py", "evaluation/figures.py", "evaluation/score_files.py"]:
        append(package / file)
    (package / "docs.md").write_text("a documentation page")
    assert name("gradcam") == before


def test_explainers_depend_on_their_network_and_finetuning(name, package: Path, place: Path):
    plain, tuned = f"ltx:{place / 'checkpoint'}", f"ltx:{place / 'checkpoint'}@steps=1"
    before = name(plain), name(tuned)
    append(package / "finetuning" / "finetune.py")
    after = name(plain), name(tuned)
    assert after[0] == before[0]
    assert after[1] != before[1]
    append(package / "explainers" / "unet.py")
    assert name(plain) != before[0]


def test_imports_for_type_checking_do_not_count(tmp_path: Path):
    root = tmp_path / "ltx"
    root.mkdir()
    (root / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ltx.b import B\nelse:\n    import ltx.c\n"
        "def f():\n    from ltx.d import D\n"
    )
    for module in "bcd":
        (root / f"{module}.py").write_text("")
    assert imported_modules(["ltx.a", "numpy"], root) == {"ltx.a", "ltx.c", "ltx.d"}
