"""The `ltx` protocol: POS, NEG, DEL, INS, ADP and PIC as in the LTX and IIA papers, and NEG - POS and INS - DEL.

Removed pixels are black. The fraction removed is 0, 0.1, …, 0.9. Areas are trapezoids over 0…0.9, not divided by 0.9,
times 100, so that the maximum is 90. The protocol needs nine forward passes for each order, one for the masked image
and the unmasked forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill, keep
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Prediction, curves, min_max, predict
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol
from ltx.metrics.relevance_gain import BLUECHER
from ltx.runtime.tensor_arguments import takes

FRACTIONS = [step / 10 for step in range(10)]

CHEFER = "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021; Barkan et al., 2023"
PETSIUK = "Petsiuk et al., RISE, BMVC 2018; steps and axes of Barkan et al., Learning to Explain, ICDM 2023"
CHATTOPADHAY = "Chattopadhay et al., Grad-CAM++, WACV 2018; as used by Barkan et al., ICDM 2023"


class LtxProtocol(Protocol):
    """Classify images perturbed in both orders with black fill, and masked by the min–max normalised map."""

    name = "ltx"
    fill = "black"

    def metrics(self) -> list[PerImageMetric]:
        return [
            AccuracyGain(),
            ProbabilityGain(),
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
        predictions = curves(
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
        return {
            "highest": predictions["highest"],
            "lowest": predictions["lowest"],
            "unmasked": batch.unmasked,
            "masked": masked,
        }


class CurveMetric(PerImageMetric):
    """Area under a curve over 0 to 90 % of the pixels removed, 0…90."""

    protocol = "ltx"
    columns = len(FRACTIONS)
    steps = FRACTIONS

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        return 100 * torch.trapezoid(rows, dx=0.1, dim=1)


class PositivePerturbation(CurveMetric):
    """Top-1 accuracy for `y` with the highest pixels removed first, 0…90."""

    name = "POS"
    meaning = "accuracy, highest pixels removed first; area over 0-90 % removed, 0...90"
    citation = CHEFER
    higher_is_better = False

    @takes(highest="real [B, .columns]")
    def update(self, highest: Prediction) -> None:
        """Add the predictions `[B, 10]` with the highest pixels removed first."""
        self.append(highest.correct)


class NegativePerturbation(CurveMetric):
    """Top-1 accuracy for `y` with the lowest pixels removed first, 0…90."""

    name = "NEG"
    meaning = "accuracy, lowest pixels removed first; area over 0-90 % removed, 0...90"
    citation = CHEFER
    higher_is_better = True

    @takes(lowest="real [B, .columns]")
    def update(self, lowest: Prediction) -> None:
        """Add the predictions `[B, 10]` with the lowest pixels removed first."""
        self.append(lowest.correct)


class Deletion(CurveMetric):
    """`p_y` with the highest pixels removed first, 0…90."""

    name = "DEL"
    meaning = "p_y, highest pixels removed first; area over 0-90 % removed, 0...90"
    citation = PETSIUK
    higher_is_better = False

    @takes(highest="real [B, .columns]")
    def update(self, highest: Prediction) -> None:
        """Add the predictions `[B, 10]` with the highest pixels removed first."""
        self.append(highest.probability)


class Insertion(CurveMetric):
    """`p_y` with the lowest pixels removed first (insertion as the LTX and IIA papers define it), 0…90."""

    name = "INS"
    meaning = "p_y, lowest pixels removed first; area over 0-90 % removed, 0...90"
    citation = PETSIUK
    higher_is_better = True

    @takes(lowest="real [B, .columns]")
    def update(self, lowest: Prediction) -> None:
        """Add the predictions `[B, 10]` with the lowest pixels removed first."""
        self.append(lowest.probability)


class _RelevanceGain(PerImageMetric):
    """Area of the lowest-first curve minus that of the highest-first curve, -90…90."""

    protocol = "ltx"
    citation = BLUECHER
    higher_is_better = True
    columns = 2 * len(FRACTIONS)
    summary = True

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        highest, lowest = rows.chunk(2, 1)
        return 100 * (torch.trapezoid(lowest, dx=0.1, dim=1) - torch.trapezoid(highest, dx=0.1, dim=1))


class AccuracyGain(_RelevanceGain):
    """NEG - POS: the symmetric relevance gain of the top-1 accuracy, -90…90; 0 in expectation for random maps."""

    name = "NEG-POS"
    meaning = "NEG minus POS, -90...90; about 0 for random maps"

    @takes(highest="real [B, S]", lowest="real [B, S]")
    def update(self, highest: Prediction, lowest: Prediction) -> None:
        """Add the predictions `[B, 10]` with the highest and with the lowest pixels removed first."""
        self.append(highest.correct, lowest.correct)


class ProbabilityGain(_RelevanceGain):
    """INS - DEL: the symmetric relevance gain of `p_y`, -90…90; 0 in expectation for random maps."""

    name = "INS-DEL"
    meaning = "INS minus DEL, -90...90; about 0 for random maps"

    @takes(highest="real [B, S]", lowest="real [B, S]")
    def update(self, highest: Prediction, lowest: Prediction) -> None:
        """Add the predictions `[B, 10]` with the highest and with the lowest pixels removed first."""
        self.append(highest.probability, lowest.probability)


class AverageDropPercentage(PerImageMetric):
    """`100 · mean(max(0, p_y(x) - p_y(x·m)) / p_y(x))`, 0…100."""

    name = "ADP"
    meaning = "average drop of p_y under the map as a mask, %"
    protocol = "ltx"
    citation = CHATTOPADHAY
    higher_is_better = False

    @takes(unmasked="real [B]", masked="real [B]")
    def update(self, unmasked: Prediction, masked: Prediction) -> None:
        """Add the predictions `[B]` for the full images and for the images multiplied by their maps."""
        drop = (unmasked.probability.float() - masked.probability.float()).clamp_min(0)
        self.append(100 * drop / unmasked.probability.clamp_min(torch.finfo(torch.float32).tiny))


class PercentageIncreaseConfidence(PerImageMetric):
    """`100 · mean[p_y(x·m) > p_y(x)]`, 0…100."""

    name = "PIC"
    meaning = "images whose p_y rises under the map as a mask, %"
    protocol = "ltx"
    citation = CHATTOPADHAY
    higher_is_better = True

    @takes(unmasked="real [B]", masked="real [B]")
    def update(self, unmasked: Prediction, masked: Prediction) -> None:
        """Add the predictions `[B]` for the full images and for the images multiplied by their maps."""
        self.append(100.0 * (masked.probability > unmasked.probability))
