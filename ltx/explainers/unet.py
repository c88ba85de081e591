"""Mask network for the feature pyramid of a convolutional or hierarchical model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features
from ltx.explainers.conditioning import ClassEvidence, ClassQuery, EvidenceStart, Modulation, evidence_skip
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import unet_decoder


class UNetExplainer(MaskNetwork):
    """A U-Net decoder (Ronneberger et al. 2015) for any timm feature pyramid, with masks at stride 4.

    Args:
        classifier, trunk, stages, conditioned: see `MaskNetwork`.
        variant: `"decoder"` = the U-Net, modulated by the class at its deepest level; `"released"` = the head of the
            released LTX code, a 1×1 convolution on the last map (stride 32).
        width: channels of the decoder at its finest level; they double with each coarser level.
        evidence: the class's evidence at which training starts, of weight 2 by default; see `evidence_skip`.

    Raises:
        InputError: the variant is unknown, or the trunk has no feature pyramid.
    """

    head_modules = ("head", "skip")

    def __init__(
        self,
        classifier: Classifier,
        trunk: str = "shared",
        stages: list[int] | None = None,
        conditioned: bool = True,
        variant: Literal["decoder", "released"] = "decoder",
        width: int = 16,
        evidence: EvidenceStart | None = None,
    ) -> None:
        if variant not in ("decoder", "released"):
            raise InputError(f"explainer.variant={variant!r} is unknown for unet; allowed: decoder, released")
        self.variant = variant
        evidence = evidence or EvidenceStart()
        super().__init__(classifier, trunk, stages, conditioned, evidence.values)
        *maps, final = self.feature_shapes
        if variant == "released":
            deepest = final[0]
            self.head = nn.Conv2d(deepest, 1, kernel_size=1)
        else:
            if len({shape[1:] for shape in maps}) < len(maps) or len(maps) < 2:
                raise InputError(
                    f"explainer.name=unet needs a trunk with a feature pyramid, and {trunk} of {classifier.name} has "
                    f"maps of {', '.join(f'{h}x{w}' for _, h, w in maps)}; use explainer.name=vit, "
                    "or a convolutional trunk such as explainer.trunk=resnet18"
                )
            widths = [width * 2**level for level in reversed(range(len(maps) - 1))]
            deepest = 2 * widths[0]
            self.norms = nn.ModuleList(nn.GroupNorm(1, shape[0]) for shape in (*maps, final))
            self.evidence = ClassEvidence(classifier, final[0]) if conditioned else None
            self.project = nn.Conv2d(maps[-1][0] + final[0] + conditioned * self.evidence_maps, deepest, kernel_size=1)
            # The first entry is the image, which this decoder does not read. With instance normalisation, an image's
            # result depends neither on its batch nor on the number of processes.
            pyramid = [0, *(shape[0] for shape in maps[:-1]), deepest]
            self.decoder = unet_decoder(pyramid, widths, n_blocks=len(widths), use_norm="instancenorm")
            for name, norm in list(self.decoder.named_modules()):
                if isinstance(norm, nn.InstanceNorm2d):  # the same function, without copies of channels-last maps
                    groups = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps, norm.affine)
                    self.decoder.set_submodule(name, groups)
            self.head = nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1)
            if self.starts_at_evidence:
                self.skip = evidence_skip(evidence.weight, 2.0, self.evidence_maps)
                nn.init.normal_(self.head.weight, std=0.01)
        self.query = ClassQuery(classifier, 64) if conditioned else None
        self.modulate = Modulation(64, deepest) if conditioned else None
        self.to(memory_format=torch.channels_last)  # like the classifier's maps

    def choose_stages(self, shapes: Sequence[torch.Size]) -> list[int]:
        """The last map for the released head, otherwise the last map of each resolution from stride 4 on."""
        if self.variant == "released":
            return [len(shapes) - 1]
        finest = min(self.classifier.input_size) / 4
        by_size = {shape[1:]: stage for stage, shape in enumerate(shapes) if min(shape[1:]) <= finest}
        return sorted(by_size.values())

    def decode(  # `areas` and `size` are for networks that take areas
        self, features: Features, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        if self.variant == "released":
            return self._head(self._modulated(features.final, targets))
        *skips, last, final = [
            norm(feature) for feature, norm in zip((*features.stages, features.final), self.norms, strict=True)
        ]
        deep = [last, nn.functional.interpolate(final, last.shape[-2:])]
        if self.evidence is None:
            return self._head(self._decoded(deep, skips, targets))
        evidence = self.evidence(features, targets)
        deep.append(nn.functional.interpolate(evidence, last.shape[-2:]))
        logits = self._head(self._decoded(deep, skips, targets))
        if not self.starts_at_evidence:
            return logits
        return logits + nn.functional.interpolate(self.skip(evidence), logits.shape[-2:], mode="bilinear")

    def _decoded(self, deep: list[Tensor], skips: list[Tensor], targets: Tensor) -> Tensor:
        x = self._modulated(self.project(torch.cat(deep, 1)), targets)
        decoded: Tensor = self.decoder([x, *skips, x])
        return decoded

    def _head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits

    def _modulated(self, x: Tensor, targets: Tensor) -> Tensor:
        if self.query is None or self.modulate is None:
            return x
        modulated: Tensor = self.modulate(x, self.query(targets))
        return modulated
