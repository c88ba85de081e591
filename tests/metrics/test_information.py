"""SIC and AIC: closed-form parts, and agreement with PAIR's `saliency`."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ltx import Classifier, InputError
from ltx.metrics.information import THRESHOLDS, information_area, reconstruct, seed_mask, to_bytes, top_count, webp_size
from ltx.metrics.protocol import Batch
from ltx.metrics.registry import PROTOCOLS


def test_area_in_closed_form():
    # Half the bytes recover 0.6 of the score. The running maximum ignores the following drop.
    area = information_area(np.array([150, 160.0]), np.array([0.58, 0.3]), np.array([100, 200]), np.array([0.1, 0.9]))
    # (0, 0) → (0.5, 0.6) → (0.6, 0.6) → (1, 1)
    assert area == pytest.approx(0.5 * 0.6 / 2 + 0.1 * 0.6 + 0.4 * 0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("sizes", "scores"),
    [((100, 200), (0.1, 0.49)), ((100, 200), (0.9, 0.9)), ((200, 200), (0.1, 0.9))],
    ids=["low probability", "seed image scores as high", "seed image is as large"],
)
def test_skipped_images(sizes, scores):
    assert math.isnan(information_area(np.array([150.0]), np.array([0.5]), np.array(sizes), np.array(scores)))


def test_a_linear_ramp_is_reconstructed_exactly_from_its_corners():
    rows, columns = np.mgrid[:9, :9]
    ramp = np.stack([10 * rows, 10 * columns, 5 * (rows + columns)], -1).astype(np.uint8)
    mask = seed_mask((9, 9), 0, "ramp")
    assert mask[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    np.testing.assert_array_equal(reconstruct(ramp, mask), ramp)
    assert webp_size(ramp) < webp_size(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sizes_of_other_numbers_of_channels(channels):
    """Noise takes a byte per pixel and channel."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, channels), dtype=np.uint8)
    noise[:16, :, -1] = 0  # of two and four channels the last is opacity: what it hides counts too
    classifier = Classifier(Detail(), num_classes=2, input_size=32, channels=channels)
    batch = Batch(["a.png"], torch.from_numpy(noise).permute(2, 0, 1)[None] / 255, torch.tensor([0]), None)
    (seed,), (full,) = PROTOCOLS["information"]().prepare(classifier, batch)["sizes"]
    assert seed < full == pytest.approx(32 * 32 * (channels - 0.5), rel=0.15)


def test_five_channels_are_refused():
    classifier = Classifier(Detail(), num_classes=2, input_size=8, channels=5)
    batch = Batch(["a.tif"], classifier.blank(), torch.tensor([0]), None)
    with pytest.raises(InputError, match=r"protocol=information measures .* 1 to 4 channels, and Detail takes 5"):
        PROTOCOLS["information"]().prepare(classifier, batch)


def test_top_count_agrees_with_numpy_quantile():
    values = np.random.default_rng(0).permutation(224 * 224).astype(float)
    for threshold in THRESHOLDS:
        assert top_count(threshold, values.size) == (values >= np.quantile(values, 1 - threshold)).sum()


def pair_scores(classifier, images, maps, targets, seeds):
    """SIC and AIC `[n]` computed by PAIR's code; NaN for images it skips."""
    pic = pytest.importorskip("saliency.metrics.pic")
    if not hasattr(np, "trapz"):  # removed in NumPy 2.4 but still called by saliency 0.2
        np.trapz = np.trapezoid
    scores = []
    for image, map_, target, seed in zip(to_bytes(images), maps[:, 0].numpy(), targets.tolist(), seeds, strict=True):

        def probabilities(pixels):
            with torch.no_grad():
                return classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).softmax(1)

        def softmax(pixels, target=target):
            return probabilities(pixels)[:, target].tolist()

        def accuracy(pixels, target=target):
            return (probabilities(pixels).argmax(1) == target).float().tolist()

        for score in (softmax, accuracy):
            try:
                scores.append(pic.compute_pic_metric(image, map_, seed, score, THRESHOLDS, min_pred_value=0.5).auc)
            except pic.ComputePicMetricError:
                scores.append(math.nan)
    return np.array(scores).reshape(-1, 2).T


def our_scores(classifier, batch, maps):
    protocol = PROTOCOLS["information"]()
    prepared = protocol.prepare(classifier, batch)
    metrics = protocol.metrics()
    measured = protocol.measure(classifier, batch, maps, prepared, lambda *_: maps)
    for metric in metrics:
        metric.update(**measured)
    return np.stack([metric.all_rows()[:, 0].numpy() for metric in metrics]), prepared["seeds"]


def smooth_noise(count, size):
    """Maps without ties: bilinear noise plus small noise for each pixel."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(count, 1, 7, 7, generator=generator), size, mode="bilinear")
    return coarse + 1e-3 * torch.rand(count, 1, *size, generator=generator)


class Detail(nn.Module):
    """The logit of class 0 grows with the contrast of neighbouring pixels, which interpolation removes."""

    def forward(self, images):
        change = images.diff(dim=3).abs().mean((1, 2, 3))
        return torch.stack([200 * (change - 0.03), torch.zeros_like(change)], 1)


def test_agreement_with_pair(make_batch):
    from skimage.data import chelsea

    image = torch.from_numpy(chelsea()[100:164:2, 100:164:2].copy()).permute(2, 0, 1)[None] / 255
    classifier = Classifier(Detail(), num_classes=2, input_size=32)
    maps, targets = smooth_noise(1, (32, 32)), torch.tensor([0])
    ours, seeds = our_scores(classifier, make_batch(classifier, image, targets), maps)
    theirs = pair_scores(classifier, image, maps, targets, seeds)
    assert np.isfinite(theirs).all(), "nothing was compared"
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 50])
def test_agreement_with_pair_on_photographs(make_batch, lite0, shared_data, count, capsys):
    from ltx.data.finding import find_images
    from ltx.data.reading import load_images

    images = load_images(find_images(shared_data / "nips2017" / "val")[:count], lite0.input_size)
    with torch.no_grad():
        targets = torch.cat([lite0(part).argmax(1) for part in images.split(8)])
    maps = smooth_noise(count, lite0.input_size)
    ours, seeds = our_scores(lite0, make_batch(lite0, images, targets), maps)
    theirs = pair_scores(lite0, images, maps, targets, seeds)
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.isfinite(theirs).any(), "nothing was compared"
    difference = np.abs(ours - theirs)
    with capsys.disabled():
        largest = np.nanmax(difference, 1)
        print(f"\nPAIR, {count} images: largest difference SIC {largest[0]:.1e}, AIC {largest[1]:.1e}")
    # Remaining differences: grid points where several sizes coincide (PAIR and NumPy take different ends of the jump),
    # and rounding that depends on the batch size.
    assert np.nanmax(difference) < 2e-3
