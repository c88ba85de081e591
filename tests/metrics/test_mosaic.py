"""Mosaics: drawing, assembly and metrics."""

import pytest
import torch

from ltx import InputError
from ltx.metrics.mosaic import GridAveragePrecision, GridPointing, assemble, cell_masks, plan_mosaics


def test_classes_differ_and_the_draw_depends_on_the_seed():
    classes = [0, 0, 1, 2, 2, 3, 4, 4]
    plan = plan_mosaics(classes, 50, seed=1)
    assert all(len({classes[i] for i in mosaic.photographs}) == 4 for mosaic in plan)
    assert {mosaic.cell for mosaic in plan} == {0, 1, 2, 3}
    assert plan == plan_mosaics(classes, 50, seed=1)
    assert plan != plan_mosaics(classes, 50, seed=2)


def test_fewer_than_four_classes_raise_an_error():
    with pytest.raises(InputError, match="4 different predicted classes; the images have 3"):
        plan_mosaics([0, 1, 2, 2], 1, seed=0)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_each_photograph_fills_its_cell(size):
    photographs = torch.stack([torch.full((3, *size), shade) for shade in (0.1, 0.2, 0.3, 0.4)])[None]
    mosaic = assemble(photographs)
    assert mosaic.shape == (1, 3, *size)
    for cell, shade in enumerate((0.1, 0.2, 0.3, 0.4)):
        inside = mosaic[0, 0][cell_masks(torch.tensor([cell]), *size)[0, 0]]
        torch.testing.assert_close(inside, torch.full_like(inside, shade))
    assert torch.stack([cell_masks(torch.tensor([c]), *size) for c in range(4)]).sum(0).eq(1).all()


def test_grid_pointing_in_closed_form():
    maps = torch.zeros(3, 1, 4, 4)
    maps[0, 0, 0, 3] = 2.0  # upper right
    maps[0, 0, 3, 0] = 6.0  # lower left
    maps[1, 0, :2, :2] = -1.0  # nothing positive
    maps[2] = 1.0
    metric = GridPointing()
    metric.update(maps=maps, cells=torch.tensor([2, 0, 1]))
    assert metric.scores(metric.all_rows()).tolist() == pytest.approx([75.0, 25.0, 25.0])


def test_grid_average_precision_in_closed_form():
    maps = torch.zeros(3, 1, 4, 4)
    maps[0, 0, :2, :2] = torch.tensor([[4.0, 3.0], [2.0, 1.0]])  # the whole target cell ranks first
    maps[1, 0, 0, 3], maps[1, 0, 3, 0] = 2.0, 1.0  # another cell, then the target's cell, then 14 ties
    metric = GridAveragePrecision()
    metric.update(maps=maps, cells=torch.tensor([0, 2, 1]))
    expected = [100.0, 100 * (1 / 2 + 3 * 4 / 16) / 4, 25.0]
    assert metric.scores(metric.all_rows()).tolist() == pytest.approx(expected)


def test_grid_average_precision_depends_only_on_the_order():
    maps, cells = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    metric, shifted = GridAveragePrecision(), GridAveragePrecision()
    metric.update(maps=maps, cells=cells)
    shifted.update(maps=(4 * maps - 2).exp() - 1, cells=cells)
    assert torch.equal(metric.all_rows(), shifted.all_rows())
