"""A visit without a browser: reading, explaining, refining, and leaving."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ltx import InputError
from ltx.demo.drawing import coloured, heat, photograph, shaded, summary
from ltx.demo.visit import Visit, begin, usable_methods
from ltx.explainers.inr import INRExplainer
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.unet import UNetExplainer
from tests.export.test_graph import small


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    return path


def visit(file: Path, kind: type[MaskNetwork] = UNetExplainer) -> Visit:
    begun = begin(small(kind), file, "<b>photo.jpg")
    begun.explain()
    return begun


def refining() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "refinement"]


def test_a_photograph_is_explained_for_the_predicted_and_any_other_class(file: Path) -> None:
    begun = visit(file)
    likeliest = begun.likeliest()
    assert [chance for *_, chance in likeliest] == sorted((chance for *_, chance in likeliest), reverse=True)
    assert len(likeliest) == 5
    assert int(begun.shown.targets[0]) == likeliest[0][0]
    first = begun.shown.maps
    begun.explain(likeliest[-1][0])
    assert int(begun.shown.targets[0]) == likeliest[-1][0]
    assert not torch.equal(first, begun.shown.maps)
    assert summary(begun.shown).startswith(f"{likeliest[-1][1]}: probability ")
    for picture in (photograph, shaded, coloured, heat):
        assert picture(begun.shown).shape == (64, 64, 3)
        assert picture(begun.shown).dtype == np.uint8


def test_a_photograph_for_a_grey_classifier(file: Path) -> None:
    begun = begin(small(channels=1), file, "photo.jpg")
    begun.explain()
    assert begun.images.shape == (1, 1, 64, 64)
    assert photograph(begun.shown).shape == (64, 64, 3)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 cut off"])
def test_what_is_no_image_is_named_as_the_visitor_named_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(InputError, match=r"^<b>photo\.jpg ") as error:
        begin(small(), tmp_path / "upload", "<b>photo.jpg")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("kind", [UNetExplainer, INRExplainer])
def test_refining_adapts_to_the_shown_class_and_counts_its_steps(file: Path, kind: type[MaskNetwork]) -> None:
    begun = visit(file, kind)
    begun.explain(3)
    before = begun.shown.maps
    assert list(begun.refine(3)) == [0, 1, 2]
    assert begun.shown.steps == 3
    assert int(begun.shown.targets[0]) == 3
    assert not torch.equal(before, begun.shown.maps)
    if begun.explainer.takes_areas:
        assert float(begun.shown.at(0.5).mask.mean()) == pytest.approx(0.5, abs=0.01)


def test_stopping_keeps_what_was_reached(file: Path) -> None:
    begun = visit(file)
    for step in begun.refine(500):
        if step == 2:
            begun.stop.set()
    assert 2 < begun.shown.steps < 10
    stopped = begun.shown
    begun.explain(int(stopped.targets[0]))
    list(begun.refine(stopped.steps))
    assert torch.allclose(begun.shown.maps, stopped.maps, atol=1e-5)


def test_a_visitor_who_leaves_ends_the_work(file: Path) -> None:
    begun = visit(file)
    shown = begun.shown
    steps = begun.refine(10_000)
    assert list(islice(steps, 2)) == [0, 1]
    assert refining()
    steps.close()
    assert not refining()
    assert begun.shown is shown


def test_an_error_while_refining_reaches_the_visitor(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*inputs: object, **options: object) -> None:
        raise InputError("the loss is not finite")

    monkeypatch.setattr("ltx.demo.visit.finetune", fail)
    with pytest.raises(InputError, match="not finite"):
        list(visit(file).refine(3))


def test_other_methods_explain_the_same_class(file: Path) -> None:
    begun = visit(file)
    methods = usable_methods(begun.classifier)
    assert "gradcam" in methods
    assert "gae" not in methods  # there is no attention
    found = list(begun.other_methods(["gradcam", "layercam"], 4))
    assert [explanation.method for explanation in found] == ["gradcam", "layercam"]
    assert all(torch.equal(explanation.targets, begun.shown.targets) for explanation in found)
