"""Performance information curves (SIC and AIC): how much of the prediction returns with how much of the image.

As PAIR's `saliency` computes them: keep 1 % random pixels, the corners and the top t of the map, fill the rest by
linear interpolation; x is the size of the lossless WebP file, y the softmax (SIC) or the top-1 accuracy (AIC), both
relative to the emptiest and the whole image; running maximum over t; area.
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

# Those of PAIR's example.
THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)
SEED_FRACTION = 0.01
POINTS = 1000
LEAST_SCORE = 0.5

KAPISHNIKOV = "Kapishnikov et al., XRAI: Better Attributions Through Regions, ICCV 2019"


class InformationProtocol(Protocol):
    """Reconstructions from the top of the map, and their sizes in bytes."""

    name = "information"
    fill = "linear interpolation"

    def metrics(self) -> list[PerImageMetric]:
        return [SoftmaxInformationCurve(), AccuracyInformationCurve()]

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        pixels = to_bytes(batch.images)
        seeds = np.stack([seed_mask(pixels.shape[1:3], self.settings.seed, name) for name in batch.seed_names])
        with _threads() as pool:
            emptiest = np.stack(list(pool.map(reconstruct, pixels, seeds)))
            sizes = [list(pool.map(webp_size, kind)) for kind in (emptiest, pixels)]
        # The file's size is that of the rounded pixels, so the prediction is theirs too.
        shown = [to_images(kind, batch.images) for kind in (emptiest, pixels)]
        size = self.settings.max_batch
        return {
            "pixels": pixels,
            "seeds": seeds,
            "sizes": torch.tensor(sizes, dtype=torch.float32),
            "emptiest": predict(classifier, shown[0], batch.targets, size),
            "whole": predict(classifier, shown[1], batch.targets, size),
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
                made = np.stack(list(pool.map(reconstruct, images[chunk], masks[chunk])))
                sizes += list(pool.map(webp_size, made))
                targets = batch.targets[torch.from_numpy(rows[chunk]).to(batch.targets.device)]
                said = predict(classifier, to_images(made, batch.images), targets, size)
                probability.append(said.probability)
                correct.append(said.correct)
        shape = (len(pixels), len(tops))
        steps = Prediction(torch.cat(probability).view(shape), torch.cat(correct).view(shape))
        return {
            "sizes": prepared["sizes"],
            "step_sizes": torch.tensor(sizes, dtype=torch.float32).view(shape),
            "emptiest": prepared["emptiest"],
            "whole": prepared["whole"],
            "information": steps,
        }


class _InformationCurve(PerImageMetric):
    protocol = "information"
    citation = KAPISHNIKOV
    decimals = 3
    higher_is_better = True

    def _append(self, sizes: Tensor, step_sizes: Tensor, emptiest: Tensor, whole: Tensor, steps: Tensor) -> None:
        ends = torch.stack([emptiest.float(), whole.float()]).cpu().double().numpy()
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
    """Area under relative softmax over relative file size, 0…1; skipped where `p_y < 0.5` or blurring does not hurt."""

    name = "SIC"
    meaning = "softmax information curve: area of relative p_y over relative WebP size, 0...1"

    def update(
        self, sizes: Tensor, step_sizes: Tensor, emptiest: Prediction, whole: Prediction, information: Prediction
    ) -> None:
        """Add sizes `[2, B]` (emptiest, whole) and `[B, T]`, and the predictions that belong to them."""
        self._append(sizes, step_sizes, emptiest.probability, whole.probability, information.probability)


class AccuracyInformationCurve(_InformationCurve):
    """Area under top-1 accuracy over relative file size, 0…1; skipped where the image is wrong or the blur is right."""

    name = "AIC"
    meaning = "accuracy information curve: area of top-1 accuracy over relative WebP size, 0...1"

    def update(
        self, sizes: Tensor, step_sizes: Tensor, emptiest: Prediction, whole: Prediction, information: Prediction
    ) -> None:
        """Add sizes `[2, B]` (emptiest, whole) and `[B, T]`, and the predictions that belong to them."""
        self._append(sizes, step_sizes, emptiest.correct, whole.correct, information.correct.float())


def information_area(step_sizes: np.ndarray, step_scores: np.ndarray, sizes: np.ndarray, scores: np.ndarray) -> float:
    """Area under one image's curve; NaN where PAIR's rules skip the image.

    Args:
        step_sizes, step_scores: bytes and score at each threshold `[T]`, in ascending order of thresholds.
        sizes, scores: those of the emptiest and of the whole image `[2]`.
    """
    if scores[1] < LEAST_SCORE or scores[0] >= scores[1] or sizes[0] >= sizes[1]:
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
    """How many pixels lie at or above the quantile `1 - threshold` of a map without ties, as NumPy defines it."""
    return pixels - math.ceil((pixels - 1) * (1 - threshold) - 1e-9)


def seed_mask(size: tuple[int, ...], seed: int, name: str) -> np.ndarray:
    """1 % of the pixels at random and the four corners, bool `[H, W]`; the same for an image whatever the method."""
    pixels = size[0] * size[1]
    mask = np.zeros(pixels, dtype=bool)
    mask[torch.randperm(pixels, generator=generator(seed, name))[: int(pixels * SEED_FRACTION)].numpy()] = True
    mask = mask.reshape(size)
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return mask


def reconstruct(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` with what is outside the mask `[H, W]` interpolated linearly over a Delaunay triangulation.

    One triangulation serves the three channels. The mask must hold the corners, so that nothing lies outside it.
    """
    if mask.all():
        return pixels
    result = pixels.copy()
    known = np.argwhere(mask)
    values = LinearNDInterpolator(known, pixels[mask].astype(np.float64))(np.argwhere(~mask))
    # A point on the hull's edge may fall outside every triangle by rounding: the mean colour, as PAIR does.
    values = np.where(np.isnan(values), pixels.mean((0, 1)), values)
    # On a lattice many values are halves but for their last bits: in float32 they are, whatever the order of sums.
    result[~mask] = np.round(values.astype(np.float32)).astype(np.uint8)
    return result


def webp_size(pixels: np.ndarray) -> int:
    """Bytes of a uint8 picture `[H, W, 3]` as lossless WebP: an upper bound of its information."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="webp", lossless=True, quality=100)
    return buffer.tell()


def to_bytes(images: Tensor) -> np.ndarray:
    """uint8 `[B, H, W, 3]` of images `[B, 3, H, W]` in [0, 1]."""
    return images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_images(pixels: np.ndarray, like: Tensor) -> Tensor:
    """Images in [0, 1] on the device of `like`, of uint8 `[B, H, W, 3]`."""
    return torch.from_numpy(pixels).to(like.device).permute(0, 3, 1, 2).to(like.dtype).div(255)


def _threads() -> ThreadPoolExecutor:
    # Triangulation and WebP coding are native code that releases the interpreter's lock.
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))
