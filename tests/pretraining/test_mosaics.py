"""Mosaics of training images and what is asked about them."""

import torch
from torch import Tensor

from ltx.classifier import Classifier
from ltx.explainers import ExplainerConfig
from ltx.fill import Fill
from ltx.objectives import Objective
from ltx.pretraining.ltx import LTXPretraining, OptimiserConfig
from ltx.pretraining.mosaics import mosaics, own_logits


def plain(values: list[float], side: int = 8) -> Tensor:
    """Images of one grey each."""
    return torch.stack([torch.full((3, side, side), value) for value in values])


def test_every_mosaic_shows_the_image_once_and_its_neighbours():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    seen = set()
    for seed in range(12):
        both, mixed = mosaics(plain(values), 1.0, torch.Generator().manual_seed(seed))
        assert mixed.all()
        for row, value in enumerate(values):
            quarters = both[row, 0].unfold(0, 4, 4).unfold(1, 4, 4)
            assert float(quarters.std((2, 3)).max()) < 1e-5, "photographs fill whole cells"
            cells = [round(float(cell), 4) for cell in quarters.mean((2, 3)).flatten()]
            shown = {*cells}
            assert value in shown
            block = {values[row ^ offset] for offset in range(len(shown))}
            assert shown == block, "the neighbours of a pair, or of four"
            share = cells.count(value)
            assert share == 4 // len(shown)
            seen.add((len(shown), cells.index(value)))
    assert {where for kind, where in seen if kind == 4} == {0, 1, 2, 3}, "the image itself is in any cell"
    assert {kind for kind, _ in seen} == {2, 4}


def test_images_without_enough_neighbours_stay_whole():
    images = plain([0.0, 0.5, 1.0])
    for seed in range(8):
        both, mixed = mosaics(images, 1.0, torch.Generator().manual_seed(seed))
        assert not mixed[2]
        assert torch.equal(both[~mixed], images[~mixed])
        untouched, none = mosaics(images, 0.0, torch.Generator().manual_seed(seed))
        assert torch.equal(untouched, images)
        assert not none.any()


def test_a_mosaic_is_asked_about_its_own_photograph():
    classifier = Classifier("resnet18", weights="random", num_classes=6, input_size=64)
    module = LTXPretraining(
        ExplainerConfig().build(classifier), Objective(), Fill("black"), OptimiserConfig(), max_steps=10
    )
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[::2] *= 0.2
    both, mixed = mosaics(images, 0.6, torch.Generator().manual_seed(1))
    assert 0 < int(mixed.sum()) < 8
    own = own_logits(classifier, images, mixed)
    judged, _ = module.judge(both, torch.Generator().manual_seed(0), own=own)
    assert torch.allclose(judged.clean, classifier(images), atol=1e-5)
    assert torch.equal(judged.targets, classifier(images).argmax(1))
    assert own_logits(classifier, images, torch.zeros(8, dtype=torch.bool)) is None
