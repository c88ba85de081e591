"""Mosaics of training images and what is asked about them."""

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
from ltx.pretraining.mosaics import Own, mosaics, own_logits
from ltx.pretraining.settings import OptimiserConfig


def plain(values: list[float], side: int = 8) -> Tensor:
    """Images of one grey each."""
    return torch.stack([torch.full((3, side, side), value) for value in values])


def test_every_mosaic_shows_the_image_once_and_its_neighbours():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    seen = set()
    for seed in range(12):
        both, shown, mixed = mosaics(plain(values), 1.0, torch.Generator().manual_seed(seed))
        assert mixed.all()
        for row, value in enumerate(values):
            quarters = both[row, 0].unfold(0, 4, 4).unfold(1, 4, 4)
            assert float(quarters.std((2, 3)).max()) < 1e-5, "photographs fill whole cells"
            cells = [round(float(cell), 4) for cell in quarters.mean((2, 3)).flatten()]
            assert cells == [values[each] for each in shown[row].flatten()]
            block = {values[row ^ offset] for offset in range(len({*cells}))}
            assert {*cells} == block, "the neighbours of a pair, or of four"
            assert value in block
            assert cells.count(value) == 4 // len(block)
            seen.add((len(block), cells.index(value)))
    assert {where for kind, where in seen if kind == 4} == {0, 1, 2, 3}, "the image itself is in any cell"
    assert {kind for kind, _ in seen} == {2, 4}


def test_images_without_enough_neighbours_stay_whole():
    images = plain([0.0, 0.5, 1.0])
    for seed in range(8):
        both, shown, mixed = mosaics(images, 1.0, torch.Generator().manual_seed(seed))
        assert not mixed[2]
        assert torch.equal(both[~mixed], images[~mixed])
        assert (shown[2] == 2).all()
        untouched, shown, none = mosaics(images, 0.0, torch.Generator().manual_seed(seed))
        assert torch.equal(untouched, images)
        assert shown.flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 2]
        assert not none.any()


def test_a_mosaic_is_asked_about_its_own_photograph():
    classifier = Classifier("resnet18", weights="random", num_classes=6, input_size=64)
    module = LTXPretraining(
        ExplainerConfig().build(classifier), Objective(), Fill("black"), OptimiserConfig(), max_steps=10
    )
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[::2] *= 0.2
    made = mosaics(images, 0.6, torch.Generator().manual_seed(1))
    assert 0 < int(made.mixed.sum()) < 8
    own = own_logits(classifier, images, made)
    judged, _ = module.judge(made.images, torch.Generator().manual_seed(0), own=own)
    assert torch.allclose(judged.unmasked_logits, classifier(images), atol=1e-5)
    assert torch.equal(judged.targets, classifier(images).argmax(1))
    assert own is not None
    assert judged.elsewhere is not None
    assert torch.equal(judged.elsewhere, own.elsewhere(classifier, judged.unmasked_logits, judged.targets))
    assert judged.elsewhere.any()
    two = replace(judged, mask=judged.mask.expand(-1, 2, -1, -1))
    rows = rows_of_areas(two, torch.full((8, 2), 0.2)).elsewhere
    assert rows is not None
    assert torch.equal(rows, judged.elsewhere.repeat_interleave(2, 0))
    whole = mosaics(images, 0.0, torch.Generator())
    assert own_logits(classifier, images, whole) is None


class Levels(nn.Module):
    """Independent labels of grey images: the first from 0.05 on, the second from 0.15, the third from 0.25."""

    num_classes = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)).unsqueeze(1) - torch.tensor([0.05, 0.15, 0.25])


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_elsewhere_is_where_a_mosaic_shows_another_class(head: str):
    made = mosaics(plain([0.0, 0.1, 0.2, 0.3]), 1.0, torch.Generator().manual_seed(2))
    own = Own(made.shown, made.mixed, torch.zeros(int(made.mixed.sum()), 3))
    classifier = Classifier(Levels(), input_size=8, head=head)
    asked = classifier(plain([0.0, 0.1, 0.2, 0.3]))
    # The classifier takes the first and the third photograph for the same.
    targets = torch.tensor([2, 0, 2, 1])
    elsewhere = own.elsewhere(classifier, asked, targets)
    shown = (made.images[:, :1] * 10).round().long()
    assert len({len(row.unique()) for row in shown}) > 1, "mosaics of two and of four"
    other = targets[shown] != targets.view(-1, 1, 1, 1)
    if head == "sigmoid":  # of many labels, one that is not the first may be found all the same
        other &= asked.gt(0)[shown, targets.view(-1, 1, 1, 1)].logical_not()
        assert other.sum() < (targets[shown] != targets.view(-1, 1, 1, 1)).sum()
    assert torch.equal(elsewhere, other.float())
