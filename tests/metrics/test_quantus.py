"""Agreement with Quantus for the same maps of the same photographs.

The two agree with the following settings:

- PixelFlipping removes *features* (pixel × channel): a map with one channel only changes the first channel. The
  map is repeated over the channels, and a step is a whole number of pixels × 3 (192×192 pixels are divisible by 9).
- Its curve starts after the first step and ends at 100 %; ours uses the same fractions.
- Its "black" is the darkest value of the image, which is not always 0: the baseline is the number 0.
- Its sort is not stable: the maps have no ties.
- Its PointingGame has no tolerance and checks whether any of the highest features lies on the mask.
"""

import numpy as np
import pytest
import torch

from ltx import Classifier
from ltx.bench.evaluate import quantus_curves, quantus_steps
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.metrics.localisation import PointingGame
from ltx.metrics.perturbation import curves


@pytest.fixture(scope="module")
def lite0_192():
    return Classifier(input_size=192)  # divisible by 9, so that Quantus's steps are whole pixels


def tie_free(count, side):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").flatten(1)
    ranks = (smooth + 1e-3 * torch.rand(smooth.shape, generator=generator)).argsort(1).argsort(1)
    return (ranks / ranks.shape[1]).view(count, 1, side, side)


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_pixel_flipping(lite0_192, shared_data, count, capsys):
    pytest.importorskip("quantus")
    images = load_images(find_images(shared_data / "nips2017" / "val")[:count], 192)
    with torch.no_grad():
        targets = torch.cat([lite0_192(part).argmax(1) for part in images.split(8)])
    maps = tie_free(count, 192)
    steps = quantus_steps(192 * 192)
    theirs = quantus_curves(lite0_192, images, maps, targets)
    fractions = [(step + 1) / steps for step in range(steps)]
    ours = curves(lite0_192, images, maps, targets, fractions, torch.zeros_like(images), max_batch=8)
    for order, expected in theirs.items():
        difference = np.abs(ours[order].probability.numpy() - expected).max()
        with capsys.disabled():
            print(f"\nQuantus PixelFlipping, {order} first, {count} images, {steps} steps: largest {difference:.1e}")
        assert difference < 1e-4


@pytest.mark.parametrize("count", [8, pytest.param(42, marks=pytest.mark.slow)])
def test_pointing_game(shared_data, lite0_192, count):
    quantus = pytest.importorskip("quantus")
    from ltx.evaluation.samples import Photographs

    folder = shared_data / "bsds_objects"
    loaded = Photographs(find_images(folder / "images")[:count], (192, 192), count, masks=folder / "masks").load(0)
    maps = tie_free(count, 192)
    ours = PointingGame()
    ours.update(maps=maps, near_objects=loaded.objects, targets=torch.zeros(count))  # without tolerance
    metric = quantus.PointingGame(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    theirs = metric(
        model=lite0_192.model,
        x_batch=loaded.images.numpy(),
        y_batch=np.zeros(count, dtype=int),
        a_batch=maps.numpy(),
        s_batch=loaded.objects.numpy(),
        channel_first=True,
    )
    assert (ours.all_rows()[:, 0] > 0).tolist() == [bool(value) for value in theirs]
    # With tolerance some near misses become hits and no hit is lost.
    near = PointingGame()
    near.update(maps=maps, near_objects=loaded.near_objects, targets=torch.zeros(count))
    assert (near.all_rows()[:, 0] >= ours.all_rows()[:, 0]).all()
