"""Mosaics of training images, and their target classes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.fill import Fill
from ltx.objectives.area_rows import rows_of_areas
from ltx.objectives.objective import Objective
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.mosaics import MosaicTargets, make_mosaics, mosaic_targets
from ltx.pretraining.settings import OptimiserConfig


def grey(values: list[float], side: int = 8) -> Tensor:
    """One image of constant grey for each value."""
    return torch.stack([torch.full((3, side, side), value) for value in values])


def test_every_mosaic_shows_the_image_once_and_its_neighbours():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    seen = set()
    for seed in range(12):
        images, sources, is_mosaic = make_mosaics(grey(values), 1.0, torch.Generator().manual_seed(seed))
        assert is_mosaic.all()
        for row, value in enumerate(values):
            quarters = images[row, 0].unfold(0, 4, 4).unfold(1, 4, 4)
            assert float(quarters.std((2, 3)).max()) < 1e-5, "photographs fill whole cells"
            cells = [round(float(cell), 4) for cell in quarters.mean((2, 3)).flatten()]
            assert cells == [values[each] for each in sources[row].flatten()]
            block = {values[row ^ offset] for offset in range(len({*cells}))}
            assert {*cells} == block, "the neighbours of a pair, or of four"
            assert value in block
            assert cells.count(value) == 4 // len(block)
            seen.add((len(block), cells.index(value)))
    assert {where for kind, where in seen if kind == 4} == {0, 1, 2, 3}, "the image itself is in any cell"
    assert {kind for kind, _ in seen} == {2, 4}


def test_images_without_enough_neighbours_are_unchanged():
    images = grey([0.0, 0.5, 1.0])
    for seed in range(8):
        result, sources, is_mosaic = make_mosaics(images, 1.0, torch.Generator().manual_seed(seed))
        assert not is_mosaic[2]
        assert torch.equal(result[~is_mosaic], images[~is_mosaic])
        assert (sources[2] == 2).all()
        untouched, sources, none = make_mosaics(images, 0.0, torch.Generator().manual_seed(seed))
        assert torch.equal(untouched, images)
        assert sources.flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 2]
        assert not none.any()


def test_a_mosaic_is_explained_for_the_class_of_its_own_photograph():
    classifier = Classifier("resnet18", weights="random", num_classes=6, input_size=64)
    module = LTXPretraining(
        ExplainerConfig().build(classifier), Objective(), Fill("black"), OptimiserConfig(), max_steps=10
    )
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[::2] *= 0.2
    batch = make_mosaics(images, 0.6, torch.Generator().manual_seed(1))
    assert 0 < int(batch.is_mosaic.sum()) < 8
    mosaics = mosaic_targets(classifier, images, batch)
    masked, _ = module.evaluate_objective(batch.images, torch.Generator().manual_seed(0), mosaics=mosaics)
    assert torch.allclose(masked.unmasked_logits, classifier(images), atol=1e-5)
    assert torch.equal(masked.targets, classifier(images).argmax(1))
    assert mosaics is not None
    assert masked.elsewhere is not None
    assert torch.equal(masked.elsewhere, mosaics.elsewhere(classifier, masked.unmasked_logits, masked.targets))
    assert masked.elsewhere.any()
    two_areas = replace(masked, mask=masked.mask.expand(-1, 2, -1, -1))
    rows = rows_of_areas(two_areas, torch.full((8, 2), 0.2)).elsewhere
    assert rows is not None
    assert torch.equal(rows, masked.elsewhere.repeat_interleave(2, 0))
    without_mosaics = make_mosaics(images, 0.0, torch.Generator())
    assert mosaic_targets(classifier, images, without_mosaics) is None


class Levels(nn.Module):
    """Independent labels of grey images: the first from 0.05 on, the second from 0.15, the third from 0.25."""

    num_classes = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)).unsqueeze(1) - torch.tensor([0.05, 0.15, 0.25])


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_elsewhere_is_where_a_mosaic_shows_another_class(head: str):
    batch = make_mosaics(grey([0.0, 0.1, 0.2, 0.3]), 1.0, torch.Generator().manual_seed(2))
    rows = batch.is_mosaic.nonzero()[:, 0]
    mosaics = MosaicTargets(batch.sources, batch.is_mosaic, rows, torch.zeros(len(rows), 3))
    classifier = Classifier(Levels(), input_size=8, head=head)
    logits = classifier(grey([0.0, 0.1, 0.2, 0.3]))
    # The classifier predicts the same class for the first and the third photograph.
    targets = torch.tensor([2, 0, 2, 1])
    elsewhere = mosaics.elsewhere(classifier, logits, targets)
    sources = (batch.images[:, :1] * 10).round().long()
    assert len({len(row.unique()) for row in sources}) > 1, "mosaics of two and of four"
    other = targets[sources] != targets.view(-1, 1, 1, 1)
    if head == "sigmoid":  # a photograph may contain further labels, which are not its first
        other &= logits.gt(0)[sources, targets.view(-1, 1, 1, 1)].logical_not()
        assert other.sum() < (targets[sources] != targets.view(-1, 1, 1, 1)).sum()
    assert torch.equal(elsewhere, other.float())
