"""Localisation metrics: compare maps with object masks, without a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import check_maps, min_max
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

CHEFER = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021"


class LocalisationProtocol(Protocol):
    """Compare maps with object masks: segmentation and pointing metrics."""

    name = "localisation"

    def metrics(self) -> list[PerImageMetric]:
        return [
            PixelAccuracy(),
            MeanIntersectionOverUnion(),
            AveragePrecision(),
            F1(),
            PointingGame(),
            EnergyPointingGame(),
        ]

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        if batch.objects is None or batch.near_objects is None:
            raise InputError("protocol=localisation needs object masks; give masks=FOLDER")
        check_maps(batch.images, maps, batch.names)
        return {
            "maps": maps,
            "objects": batch.objects,
            "near_objects": batch.near_objects,
            "targets": batch.targets,
        }


@takes(maps="float [B, 1, H, W]")
def predicted_object(maps: Tensor) -> Tensor:
    """Pixels above the mean of their map, bool `[B, 1, H, W]`; none for a constant map."""
    stretched = min_max(maps).double()  # in float32 the mean of equal values may differ from the value
    return stretched > stretched.mean((2, 3), keepdim=True)


@takes(predicted="bool [B, 1, H, W]", objects="real [B, 1, H, W]")
def counts(predicted: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True positives, false positives, false negatives and true negatives `[B]` of masks `[B, 1, H, W]`."""
    predicted, objects = predicted.flatten(1), objects.flatten(1).bool()
    pairs = ((predicted, objects), (predicted, ~objects), (~predicted, objects), (~predicted, ~objects))
    tp, fp, fn, tn = ((a & b).sum(1) for a, b in pairs)
    return tp, fp, fn, tn


class PixelAccuracy(PerImageMetric):
    """Share of pixels that the map's mean classifies correctly, pooled over all images, %."""

    name = "PixAcc"
    meaning = "pixels classified correctly by the map's mean, pooled, %"
    protocol = "localisation"
    citation = CHEFER
    higher_is_better = True
    columns = 2

    @takes(maps="float [B, 1, H, W]", objects="real [B, 1, H, W]")
    def update(self, maps: Tensor, objects: Tensor) -> None:
        """Add maps and object masks, both `[B, 1, H, W]`."""
        tp, _, _, tn = counts(predicted_object(maps), objects)
        self.append(tp + tn, torch.full_like(tp, objects.shape[1:].numel()))

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        return 100 * rows[:, 0] / rows[:, 1]

    @takes(rows="float64 [n, .columns]", weights="float64 [R, n]")
    def aggregate(self, rows: Tensor, weights: Tensor) -> Tensor:
        correct, total = (weights @ rows).T
        ratio: Tensor = 100 * correct / total
        return ratio


class MeanIntersectionOverUnion(PerImageMetric):
    """Mean of the object's and the background's IoU, each pooled over all images, %."""

    name = "mIoU"
    meaning = "mean IoU of object and background, pooled, %"
    protocol = "localisation"
    citation = CHEFER
    higher_is_better = True
    columns = 4

    @takes(maps="float [B, 1, H, W]", objects="real [B, 1, H, W]")
    def update(self, maps: Tensor, objects: Tensor) -> None:
        """Add maps and object masks, both `[B, 1, H, W]`."""
        tp, fp, fn, tn = counts(predicted_object(maps), objects)
        self.append(tp, tp + fp + fn, tn, tn + fp + fn)

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        return _mean_iou(rows)

    @takes(rows="float64 [n, .columns]", weights="float64 [R, n]")
    def aggregate(self, rows: Tensor, weights: Tensor) -> Tensor:
        return _mean_iou(weights @ rows)


def _mean_iou(sums: Tensor) -> Tensor:
    # If both masks are empty (for the background: an image that is all object), define the IoU as 1.
    ratios = [torch.where(sums[:, i + 1] > 0, sums[:, i] / sums[:, i + 1].clamp_min(1), 1.0) for i in (0, 2)]
    return 50 * (ratios[0] + ratios[1])


class AveragePrecision(PerImageMetric):
    """Average precision of the map as a pixel classifier, mean over images, %."""

    name = "AP"
    meaning = "average precision over pixels, mean over images, %"
    protocol = "localisation"
    citation = CHEFER
    higher_is_better = True

    @takes(maps="float [B, 1, H, W]", objects="real [B, 1, H, W]")
    def update(self, maps: Tensor, objects: Tensor) -> None:
        """Add maps and object masks, both `[B, 1, H, W]`."""
        self.append(100 * average_precision(maps.flatten(1), objects.flatten(1)))


@takes(scores="float [B, N]", positive="real [B, N]")
def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision `Σ (R_n - R_{n-1}) P_n` over distinct thresholds.

    Args:
        scores: `[B, N]`, higher = more likely positive.
        positive: labels `[B, N]`.

    Returns:
        Float64 `[B]`; NaN for a row without a positive.
    """
    values, order = scores.sort(dim=1, descending=True, stable=True)
    hits = positive.double().gather(1, order)
    places = torch.arange(values.shape[1], device=values.device)
    precision = hits.cumsum(1) / (places + 1)
    # Equal scores share one threshold: each positive counts with the precision at the end of its run of ties.
    last = torch.ones_like(values, dtype=torch.bool)
    last[:, :-1] = values[:, 1:] != values[:, :-1]
    ends = torch.where(last, places, values.shape[1]).flip(1).cummin(1).values.flip(1)
    return (hits * precision.gather(1, ends)).sum(1) / hits.sum(1)


class F1(PerImageMetric):
    """F1 score of the pixels above the map's mean, mean over images, %."""

    name = "F1"
    meaning = "F1 of the pixels above the map's mean, mean over images, %"
    protocol = "localisation"
    citation = CHEFER
    higher_is_better = True

    @takes(maps="float [B, 1, H, W]", objects="real [B, 1, H, W]")
    def update(self, maps: Tensor, objects: Tensor) -> None:
        """Add maps and object masks, both `[B, 1, H, W]`."""
        tp, fp, fn, _ = counts(predicted_object(maps), objects)
        self.append(100 * 2 * tp / (2 * tp + fp + fn).clamp_min(1))


class PointingGame(PerImageMetric):
    """Share of images whose highest pixel lies on the object, mean over classes, %.

    Of several equal maxima the first in row-major order counts. `near_objects` includes the tolerance of 15 px at the
    original scale of the picture.
    """

    name = "Pointing"
    meaning = "highest pixel on the object (15 px tolerance), mean over classes, %"
    protocol = "localisation"
    citation = "Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018"
    higher_is_better = True
    columns = 2

    @takes(maps="float [B, 1, H, W]", near_objects="real [B, 1, H, W]", targets="real [B]")
    def update(self, maps: Tensor, near_objects: Tensor, targets: Tensor) -> None:
        """Add maps and masks with tolerance `[B, 1, H, W]`, and the class of each object `[B]`.

        A map that contains NaN has no highest pixel: its row is NaN.
        """
        flat = maps.flatten(1)
        places = torch.arange(flat.shape[1], device=flat.device)
        highest = flat.amax(1, keepdim=True)
        first = torch.where((flat == highest) | highest.isnan(), places, flat.shape[1]).amin(1, keepdim=True)
        hits = 100.0 * near_objects.flatten(1).gather(1, first)
        self.append(hits.where(~highest.isnan(), torch.nan), targets)

    @takes(rows="float64 [n, .columns]", weights="float64 [R, n]")
    def aggregate(self, rows: Tensor, weights: Tensor) -> Tensor:
        classes, place = rows[:, 1].unique(return_inverse=True)
        members = torch.nn.functional.one_hot(place, len(classes)).to(rows.dtype)
        total = weights @ members
        accuracy = (weights @ (members * rows[:, :1])) / total.clamp_min(1e-12)
        present = total > 0  # a bootstrap sample may miss a class
        return (accuracy * present).sum(1) / present.sum(1)


class EnergyPointingGame(PerImageMetric):
    """Share of the map's positive part that lies on the object, %."""

    name = "Energy"
    meaning = "share of the map's positive part on the object, %"
    protocol = "localisation"
    citation = "Wang et al., Score-CAM, CVPR Workshops 2020"
    higher_is_better = True

    @takes(maps="float [B, 1, H, W]", objects="real [B, 1, H, W]")
    def update(self, maps: Tensor, objects: Tensor) -> None:
        """Add maps and object masks, both `[B, 1, H, W]`."""
        self.append(100 * positive_share(maps, objects))


@takes(maps="float [B, 1, H, W]", inside="real [B, 1, H, W]")
def positive_share(maps: Tensor, inside: Tensor) -> Tensor:
    """Share of `max(map, 0)` inside a mask `[B]`; a map without a positive part is treated as constant."""
    positive = maps.clamp_min(0).flatten(1).double()
    positive = torch.where(positive.amax(1, keepdim=True) > 0, positive, torch.ones_like(positive))
    return (positive * inside.flatten(1)).sum(1) / positive.sum(1)
