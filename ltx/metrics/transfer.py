"""The transfer check: classify masked images with a second classifier that the explainer never saw.

A mask can be an adversarial pattern: the shape of the cut, rather than the visible content, changes the prediction of
the explained classifier. Such patterns rarely transfer to another classifier, while evidence does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill, keep
from ltx.metrics.ltx_protocol import FRACTIONS, CurveMetric
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Prediction, check_maps, curves, min_max, predict
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol, Settings
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

TRANSFER = "defined in ltx/metrics/transfer.py; no paper"


class TransferProtocol(Protocol):
    """Masked images and the lowest-first curve under `settings.second`, with black fill and the same class index."""

    name = "transfer"
    fill = "black"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        if self.settings.second is None:
            raise InputError("protocol=transfer needs a second classifier; give second.name=MODEL")
        self.second = self.settings.second

    def metrics(self) -> list[PerImageMetric]:
        return [TransferKept(), TransferInsertion()]

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        if classifier.num_classes != self.second.num_classes:
            raise InputError(
                f"second.name={self.second.name} has {self.second.num_classes} classes, but {classifier.name} has "
                f"{classifier.num_classes}; the transfer check needs the same classes"
            )
        images = self._resize(batch.images)
        return {"images": images, "unmasked": predict(self.second, images, batch.targets, self.settings.max_batch)}

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        check_maps(batch.images, maps, batch.names)
        images, maps = prepared["images"], self._resize(maps)
        background = Fill(self.fill)(images)
        size = self.settings.max_batch
        predictions = curves(
            self.second,
            images,
            maps,
            batch.targets,
            FRACTIONS,
            background,
            orders=["lowest"],
            unmasked=prepared["unmasked"],
            max_batch=size,
            names=batch.names,
        )
        kept = predict(self.second, keep(images, min_max(maps), background), batch.targets, size)
        return {"transfer_kept": kept, "transfer_lowest": predictions["lowest"]}

    def _resize(self, tensor: Tensor) -> Tensor:
        if tuple(tensor.shape[-2:]) == self.second.input_size:
            return tensor
        return F.interpolate(tensor, self.second.input_size, mode="bilinear", align_corners=False, antialias=True)


class TransferKept(PerImageMetric):
    """`100 · p_y(x·m)` of the second classifier, for maps scaled to [0, 1]; a constant one becomes 0.5 everywhere.

    A map that is high almost everywhere keeps almost everything, so read it together with ADP.
    """

    name = "KEPT2"
    meaning = "p_y of the image under the map as a mask, by the second classifier, %"
    protocol = "transfer"
    citation = TRANSFER
    higher_is_better = True

    @takes(transfer_kept="real [B]")
    def update(self, transfer_kept: Prediction) -> None:
        """Add the second classifier's predictions `[B]` for the images multiplied by their maps."""
        self.append(100 * transfer_kept.probability)


class TransferInsertion(CurveMetric):
    """INS of the `ltx` protocol under the second classifier; every map keeps the same areas."""

    name = "INS2"
    meaning = "p_y by the second classifier, lowest pixels removed first; area over 0-90 % removed, 0...90"
    protocol = "transfer"
    citation = TRANSFER
    higher_is_better = True

    @takes(transfer_lowest="real [B, .columns]")
    def update(self, transfer_lowest: Prediction) -> None:
        """Add the second classifier's predictions `[B, 10]` with the lowest pixels removed first."""
        self.append(transfer_lowest.probability)
