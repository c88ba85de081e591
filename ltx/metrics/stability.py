"""Stability of maps under small noise in the image."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import check_maps
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol, generator
from ltx.metrics.rank_correlation import rank_correlation
from ltx.runtime.tensor_arguments import takes

NOISE = 0.02  # standard deviation for pixels in [0, 1]: five grey levels, barely visible
DRAWS = 2


class StabilityProtocol(Protocol):
    """Compare maps with maps of noisy copies of each image, for the same target class."""

    name = "stability"

    def metrics(self) -> list[PerImageMetric]:
        return [NoiseStability()]

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        shape = batch.images.shape[1:]
        draws = [
            torch.stack(
                [torch.randn(shape, generator=generator(self.settings.seed, draw, n)) for n in batch.seed_names]
            )
            for draw in range(DRAWS)
        ]
        return {"noisy": [(batch.images + NOISE * draw.to(batch.images)).clamp(0, 1) for draw in draws]}

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        check_maps(batch.images, maps, batch.names)
        similarity = []
        for noisy in prepared["noisy"]:
            changed = explain(classifier, noisy, batch.targets)
            check_maps(batch.images, changed, batch.names)
            similarity.append(rank_correlation(maps, changed))
        return {"stability": torch.stack(similarity, 1)}


class NoiseStability(PerImageMetric):
    """Mean rank correlation of the map with the maps of noisy copies (σ = 0.02), -1…1; 1 for constant maps."""

    name = "Stability"
    meaning = "rank correlation with maps of noisy copies (sigma 0.02), -1...1"
    protocol = "stability"
    decimals = 3
    citation = (
        "Alvarez-Melis and Jaakkola, On the Robustness of Interpretability Methods, 2018; rank correlation for norm"
    )
    higher_is_better = True
    columns = DRAWS

    @takes(stability="float [B, .columns]")
    def update(self, stability: Tensor) -> None:
        """Add rank correlations `[B, 2]`, one column for each noisy copy."""
        self.append(stability)

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        return rows.mean(1)
