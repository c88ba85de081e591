"""Building an `Explanation` from the maps that a mask network or a finetuning run computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill
from ltx.results.explanation import Explanation
from ltx.results.masked_probabilities import MaskedProbabilities
from ltx.results.masks_by_area import AreaMasks, Ask

SHOWN_AREA = 0.2
"""Area of the mask in the explanation of a network that takes areas, until another one is requested."""


@dataclass(frozen=True)
class Provenance:
    """How maps were computed.

    Attributes:
        method: name of the method.
        fill: fill for removed pixels in the reported probabilities; the first of several.
        names: one name per image, or None.
        steps: optimisation steps on these images; 0 = one forward pass.
        seconds: wall time per image.
        selected_by: metric that selected the maps among those of all steps; None = the last step.
        max_batch: most masked images in one forward pass.
    """

    method: str
    fill: Fill | str = "black"
    names: list[str] | None = None
    steps: int = 0
    seconds: float = 0.0
    selected_by: str | None = None
    max_batch: int = 64


@torch.no_grad()
def build_explanation(
    classifier: Classifier,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    unmasked_logits: Tensor,
    provenance: Provenance,
    ask: Ask | None = None,
) -> Explanation:
    """Build the explanation of maps; the probabilities of masked images are computed when they are first read.

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        maps: `[B, 1, H, W]`.
        targets: target classes, `[B]`.
        unmasked_logits: logits of the unmasked forward pass, `[B, K]`.
        provenance: how the maps were computed.
        ask: computes masks of any area. The explanation's mask is then that of `SHOWN_AREA`, otherwise the map itself.
    """
    fill = (provenance.fill if isinstance(provenance.fill, Fill) else Fill(provenance.fill)).first()
    probability = classifier.probabilities(unmasked_logits).gather(1, targets[:, None])[:, 0]
    by_area: AreaMasks | None = None
    if ask is not None:
        background = fill(images, torch.Generator().manual_seed(0), shared=True)
        by_area = AreaMasks(classifier, images, background, targets, probability, ask, provenance.max_batch)
    mask = maps if by_area is None else by_area(SHOWN_AREA)
    masked = MaskedProbabilities(classifier, images, mask, fill, targets, provenance.max_batch)
    return Explanation(
        images=images,
        maps=maps,
        mask=mask,
        targets=targets,
        labels=[classifier.label(index) for index in targets.tolist()],
        probability=probability,
        probability_kept=masked.kept,
        probability_removed=masked.removed,
        method=provenance.method,
        steps=provenance.steps,
        seconds=provenance.seconds,
        names=provenance.names,
        selected_by=provenance.selected_by,
        fill=fill.choices[0],
        by_area=by_area,
    )
