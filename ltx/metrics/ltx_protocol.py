"""The `ltx` protocol: POS, NEG, DEL, INS, ADP and PIC as the LTX and IIA papers compute them.

Black fill in pixel space; p ∈ {0, .1, …, .9} of the pixels removed; trapezoid over 0…0.9, not divided by 0.9, × 100,
so that the most is 90. Nine forward passes for each order, one for the masked image, and the unmasked one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill, keep
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Prediction, curves, min_max, predict
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol

FRACTIONS = [step / 10 for step in range(10)]

CHEFER = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021; Barkan et al., 2023"
PETSIUK = "Petsiuk et al., RISE, BMVC 2018; steps and axes of Barkan et al., Learning to Explain, ICDM 2023"
CHATTOPADHAY = "Chattopadhay et al., Grad-CAM++, WACV 2018; as used by Barkan et al., ICDM 2023"


class LtxProtocol(Protocol):
    """Both perturbation orders with black fill, and the image under the min–max normalised soft map."""

    name = "ltx"
    fill = "black"

    def metrics(self) -> list[PerImageMetric]:
        return [
            PositivePerturbation(),
            NegativePerturbation(),
            Deletion(),
            Insertion(),
            AverageDropPercentage(),
            PercentageIncreaseConfidence(),
        ]

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        background = Fill(self.fill)(batch.images)
        size = self.settings.max_batch
        found = curves(
            classifier,
            batch.images,
            maps,
            batch.targets,
            FRACTIONS,
            background,
            unmasked=batch.unmasked,
            max_batch=size,
            names=batch.names,
        )
        masked = predict(classifier, keep(batch.images, min_max(maps), background), batch.targets, size)
        return {"highest": found["highest"], "lowest": found["lowest"], "unmasked": batch.unmasked, "masked": masked}


class CurveMetric(PerImageMetric):
    """The area under a curve over 0 to 90 % removed, 0…90."""

    protocol = "ltx"
    columns = len(FRACTIONS)
    steps = FRACTIONS

    def scores(self, rows: Tensor) -> Tensor:
        return 100 * torch.trapezoid(rows, dx=0.1, dim=1)


class PositivePerturbation(CurveMetric):
    """Top-1 accuracy for `y` as the highest pixels are removed first, 0…90."""

    name = "POS"
    meaning = "accuracy, highest pixels removed first; area over 0-90 % removed, 0...90"
    citation = CHEFER
    higher_is_better = False

    def update(self, highest: Prediction) -> None:
        """Add the predictions `[B, 10]` of the highest-first order."""
        self.append(highest.correct)


class NegativePerturbation(CurveMetric):
    """Top-1 accuracy for `y` as the lowest pixels are removed first, 0…90."""

    name = "NEG"
    meaning = "accuracy, lowest pixels removed first; area over 0-90 % removed, 0...90"
    citation = CHEFER
    higher_is_better = True

    def update(self, lowest: Prediction) -> None:
        """Add the predictions `[B, 10]` of the lowest-first order."""
        self.append(lowest.correct)


class Deletion(CurveMetric):
    """`p_y` as the highest pixels are removed first, 0…90."""

    name = "DEL"
    meaning = "p_y, highest pixels removed first; area over 0-90 % removed, 0...90"
    citation = PETSIUK
    higher_is_better = False

    def update(self, highest: Prediction) -> None:
        """Add the predictions `[B, 10]` of the highest-first order."""
        self.append(highest.probability)


class Insertion(CurveMetric):
    """`p_y` as the lowest pixels are removed first (insertion as the LTX and IIA papers define it), 0…90."""

    name = "INS"
    meaning = "p_y, lowest pixels removed first; area over 0-90 % removed, 0...90"
    citation = PETSIUK
    higher_is_better = True

    def update(self, lowest: Prediction) -> None:
        """Add the predictions `[B, 10]` of the lowest-first order."""
        self.append(lowest.probability)


class AverageDropPercentage(PerImageMetric):
    """`100 · mean(max(0, p_y(x) - p_y(x·m)) / p_y(x))`, 0…100."""

    name = "ADP"
    meaning = "average drop of p_y under the soft map, %"
    protocol = "ltx"
    citation = CHATTOPADHAY
    higher_is_better = False

    def update(self, unmasked: Prediction, masked: Prediction) -> None:
        """Add the predictions `[B]` for the images and for the images under their soft maps."""
        drop = (unmasked.probability - masked.probability).clamp_min(0)
        self.append(100 * drop / unmasked.probability.clamp_min(torch.finfo(torch.float32).tiny))


class PercentageIncreaseConfidence(PerImageMetric):
    """`100 · mean[p_y(x·m) > p_y(x)]`, 0…100."""

    name = "PIC"
    meaning = "images whose p_y rises under the soft map, %"
    protocol = "ltx"
    citation = CHATTOPADHAY
    higher_is_better = True

    def update(self, unmasked: Prediction, masked: Prediction) -> None:
        """Add the predictions `[B]` for the images and for the images under their soft maps."""
        self.append(100.0 * (masked.probability > unmasked.probability))
