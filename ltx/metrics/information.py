"""Performance information curves (SIC and AIC): prediction recovered against information shown.

Computed as in PAIR's `saliency`. Keep 1 % random pixels, the corners and the top fraction t of the map, and fill the
rest by linear interpolation. The x-axis is the size of the lossless WebP file, the y-axis the softmax probability
(SIC) or the top-1 accuracy (AIC). Both are scaled so that the seed image (t = 0) is at 0 and the full image at 1. The
score is the area under the running maximum over t.
"""

from __future__ import annotations

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from scipy.interpolate import LinearNDInterpolator
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Prediction, check_maps, predict, rank_pixels
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol, generator
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

# The thresholds of PAIR's example.
THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)
SEED_FRACTION = 0.01
POINTS = 1000
MIN_SCORE = 0.5
MOST_CHANNELS = 4

KAPISHNIKOV = "Kapishnikov et al., XRAI: Better Attributions Through Regions, ICCV 2019"


class InformationProtocol(Protocol):
    """Reconstruct images from the top of the map and measure their sizes in bytes."""

    name = "information"
    fill = "linear interpolation"

    def metrics(self) -> list[PerImageMetric]:
        return [SoftmaxInformationCurve(), AccuracyInformationCurve()]

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        channels = batch.images.shape[1]
        if channels > MOST_CHANNELS:
            raise InputError(
                f"protocol=information measures images as WebP files of 1 to {MOST_CHANNELS} channels, and "
                f"{classifier.name} takes {channels}; choose another protocol"
            )
        pixels = to_bytes(batch.images)
        seeds = np.stack([seed_mask(pixels.shape[1:3], self.settings.seed, name) for name in batch.seed_names])
        with _threads() as pool:
            seed_pixels = np.stack(list(pool.map(reconstruct, pixels, seeds)))
            sizes = [list(pool.map(webp_size, kind)) for kind in (seed_pixels, pixels)]
        # Predict from the rounded pixels, because the file size is measured on them.
        seed_images, full_images = (to_images(kind, batch.images) for kind in (seed_pixels, pixels))
        size = self.settings.max_batch
        return {
            "pixels": pixels,
            "seeds": seeds,
            "sizes": torch.tensor(sizes, dtype=torch.float32),
            "seed": predict(classifier, seed_images, batch.targets, size),
            "full": predict(classifier, full_images, batch.targets, size),
        }

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        check_maps(batch.images, maps, batch.names)
        pixels, seeds = prepared["pixels"], prepared["seeds"]
        ranks = rank_pixels(maps).view(maps.shape[0], *maps.shape[-2:]).cpu().numpy()
        tops = np.array([top_count(t, ranks[0].size) for t in THRESHOLDS])
        rows = np.repeat(np.arange(len(pixels)), len(tops))
        images, masks = (
            pixels[rows],
            (ranks[:, None] < tops[None, :, None, None]).reshape(-1, *ranks.shape[1:]) | seeds[rows],
        )
        probability, correct, sizes = [], [], []
        size = self.settings.max_batch
        with _threads() as pool:
            for start in range(0, len(rows), size):
                chunk = slice(start, start + size)
                partial = np.stack(list(pool.map(reconstruct, images[chunk], masks[chunk])))
                sizes += list(pool.map(webp_size, partial))
                targets = batch.targets[torch.from_numpy(rows[chunk]).to(batch.targets.device)]
                prediction = predict(classifier, to_images(partial, batch.images), targets, size)
                probability.append(prediction.probability)
                correct.append(prediction.correct)
        shape = (len(pixels), len(tops))
        steps = Prediction(torch.cat(probability).view(shape), torch.cat(correct).view(shape))
        return {
            "sizes": prepared["sizes"],
            "step_sizes": torch.tensor(sizes, dtype=torch.float32).view(shape),
            "seed": prepared["seed"],
            "full": prepared["full"],
            "information": steps,
        }


class _InformationCurve(PerImageMetric):
    protocol = "information"
    citation = KAPISHNIKOV
    decimals = 3
    higher_is_better = True

    def _append(self, sizes: Tensor, step_sizes: Tensor, seed: Tensor, full: Tensor, steps: Tensor) -> None:
        ends = torch.stack([seed.float(), full.float()]).cpu().double().numpy()
        areas = [
            information_area(
                step_sizes[i].double().numpy(),
                steps[i].cpu().double().numpy(),
                sizes[:, i].double().numpy(),
                ends[:, i],
            )
            for i in range(steps.shape[0])
        ]
        self.append(torch.tensor(areas, device=self.device))


class SoftmaxInformationCurve(_InformationCurve):
    """Area under relative `p_y` over relative file size, 0…1; see `information_area` for skipped images."""

    name = "SIC"
    meaning = "softmax information curve: area of relative p_y over relative WebP size, 0...1"

    @takes(sizes="float [2, B]", step_sizes="float [B, T]", seed="real [B]", full="real [B]", information="real [B, T]")
    def update(
        self, sizes: Tensor, step_sizes: Tensor, seed: Prediction, full: Prediction, information: Prediction
    ) -> None:
        """Add sizes `[2, B]` (seed image, full image) and `[B, T]`, and the corresponding predictions."""
        self._append(sizes, step_sizes, seed.probability, full.probability, information.probability)


class AccuracyInformationCurve(_InformationCurve):
    """Area under top-1 accuracy over relative file size, 0…1; see `information_area` for skipped images."""

    name = "AIC"
    meaning = "accuracy information curve: area of top-1 accuracy over relative WebP size, 0...1"

    @takes(sizes="float [2, B]", step_sizes="float [B, T]", seed="real [B]", full="real [B]", information="real [B, T]")
    def update(
        self, sizes: Tensor, step_sizes: Tensor, seed: Prediction, full: Prediction, information: Prediction
    ) -> None:
        """Add sizes `[2, B]` (seed image, full image) and `[B, T]`, and the corresponding predictions."""
        self._append(sizes, step_sizes, seed.correct, full.correct, information.correct.float())


def information_area(step_sizes: np.ndarray, step_scores: np.ndarray, sizes: np.ndarray, scores: np.ndarray) -> float:
    """Area under the curve of one image, or NaN if PAIR's rules skip the image.

    PAIR skips an image if the full image scores below 0.5, if the seed image scores no lower than the full image, or
    if its file is no smaller.

    Args:
        step_sizes, step_scores: bytes and score at each threshold `[T]`, in ascending order of thresholds.
        sizes, scores: bytes and score of the seed image and of the full image `[2]`.
    """
    if scores[1] < MIN_SCORE or scores[0] >= scores[1] or sizes[0] >= sizes[1]:
        return math.nan
    x = ((step_sizes - sizes[0]) / (sizes[1] - sizes[0])).clip(0, 1)
    y = np.maximum.accumulate(((step_scores - scores[0]) / (scores[1] - scores[0])).clip(0, 1))
    x, y = np.append(x, [0.0, 1.0]), np.append(y, [0.0, 1.0])
    order = np.argsort(x, kind="stable")
    grid = np.linspace(0, 1, POINTS + 1)
    values = np.interp(grid, x[order], y[order])
    values[-1] = 1.0
    return float(np.trapezoid(values, grid))


def top_count(threshold: float, pixels: int) -> int:
    """Number of pixels at or above the quantile `1 - threshold` of a map without ties, as NumPy defines quantiles."""
    return pixels - math.ceil((pixels - 1) * (1 - threshold) - 1e-9)


def seed_mask(size: tuple[int, ...], seed: int, name: str) -> np.ndarray:
    """Random 1 % of the pixels and the four corners, bool `[H, W]`; the draw depends on the seed and the name only."""
    pixels = size[0] * size[1]
    mask = np.zeros(pixels, dtype=bool)
    mask[torch.randperm(pixels, generator=generator(seed, name))[: int(pixels * SEED_FRACTION)].numpy()] = True
    mask = mask.reshape(size)
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return mask


def reconstruct(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill the pixels outside a mask by linear interpolation over a Delaunay triangulation.

    One triangulation serves all channels.

    Args:
        pixels: uint8 `[H, W, C]`.
        mask: bool `[H, W]`, true for known pixels. It must contain the four corners, so that every pixel lies inside
            the triangulation.
    """
    if mask.all():
        return pixels
    result = pixels.copy()
    known = np.argwhere(mask)
    values = LinearNDInterpolator(known, pixels[mask].astype(np.float64))(np.argwhere(~mask))
    # Rounding may put a point on the hull's edge outside every triangle. PAIR uses the mean colour there.
    values = np.where(np.isnan(values), pixels.mean((0, 1)), values)
    # On a lattice many values are halves except for their last bits. In float32 they are exact halves, regardless of
    # the order of summation.
    result[~mask] = np.round(values.astype(np.float32)).astype(np.uint8)
    return result


def webp_size(pixels: np.ndarray) -> int:
    """Size in bytes of a uint8 image `[H, W, C]` as lossless WebP, an upper bound on its information.

    One channel is grey; the second of two and the fourth of four are opacity, whose zeros keep their colours.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(buffer, format="webp", lossless=True, quality=100, exact=True)
    return buffer.tell()


@takes(images="float [B, C, H, W]")
def to_bytes(images: Tensor) -> np.ndarray:
    """Convert images `[B, C, H, W]` in [0, 1] to uint8 `[B, H, W, C]`."""
    return images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


@takes(like="float [...]")
def to_images(pixels: np.ndarray, like: Tensor) -> Tensor:
    """Convert uint8 `[B, H, W, C]` to images `[B, C, H, W]` in [0, 1] with the device and dtype of `like`."""
    return torch.from_numpy(pixels).to(like.device).permute(0, 3, 1, 2).to(like.dtype).div(255)


def _threads() -> ThreadPoolExecutor:
    # Triangulation and WebP encoding are native code that releases the GIL.
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))
