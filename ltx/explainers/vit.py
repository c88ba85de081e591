"""Mask network for the tokens of a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features
from ltx.explainers.conditioning import ClassEvidence, ClassQuery, EvidenceStart, Modulation, evidence_skip
from ltx.explainers.detail import PatchDetail
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.separate_modules import separate_modules
from ltx.runtime.errors import InputError

MASK_STRIDE = 4
"""Pixels per value of a finer mask, as in the U-Net decoder."""


class ViTExplainer(MaskNetwork):
    """A token head for a trunk whose maps have one resolution: one mask value per patch.

    Args:
        classifier, trunk, stages, conditioned: see `MaskNetwork`.
        variant: `"decoder"` = a small transformer, modulated by the class, on layer-normed tokens of several blocks and
            the class's evidence map; `"released"` = the head of the released LTX code on the last block's
            normalised tokens: Linear(d, d), tanh, Linear(d, 1).
        width: token width of the decoder, a multiple of 64 (or any width below 128).
        depth: number of transformer blocks of the decoder.
        evidence: the class's evidence at which training starts, of weight 2 by default; see `evidence_skip`.

    Raises:
        InputError: the variant is unknown, the trunk has several resolutions, or the width does not fit the heads.
    """

    head_modules = ("head", "skip", "detail")

    def __init__(
        self,
        classifier: Classifier,
        trunk: str = "shared",
        stages: list[int] | None = None,
        conditioned: bool = True,
        variant: Literal["decoder", "released"] = "decoder",
        width: int = 192,
        depth: int = 2,
        evidence: EvidenceStart | None = None,
    ) -> None:
        if variant not in ("decoder", "released"):
            raise InputError(f"explainer.variant={variant!r} is unknown for vit; allowed: decoder, released")
        self.variant = variant
        self.detail: PatchDetail | None = None
        evidence = evidence or EvidenceStart()
        super().__init__(classifier, trunk, stages, conditioned, evidence.values and variant == "decoder")
        *maps, final = self.feature_shapes
        if any(shape[1:] != final[1:] for shape in maps):
            raise InputError(
                f"explainer.name=vit needs a trunk of one resolution, and {trunk} of {classifier.name} is a pyramid; "
                "use explainer.name=unet"
            )
        channels = final[0]
        if variant == "released":
            width = channels
        else:
            self.norms = nn.ModuleList(nn.LayerNorm(shape[0]) for shape in maps)
            # Normalised over the whole map and not per token: the magnitude of a token's contribution is informative.
            self.final_norm = nn.GroupNorm(1, final[0])
            self.evidence = ClassEvidence(classifier, channels) if conditioned else None
            self.project = nn.Linear(
                sum(shape[0] for shape in (*maps, final)) + conditioned * self.evidence_maps, width
            )
            if width < 1 or width % max(1, width // 64):
                raise InputError(f"explainer.width={width}; give a multiple of 64, a number of channels for each head")
            self.blocks = nn.Sequential(*(Block(width, max(1, width // 64), mlp_ratio=2) for _ in range(depth)))
        self.query = ClassQuery(classifier, width) if conditioned else None
        self.modulate = Modulation(width, width) if conditioned else None
        if variant == "released":
            self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        else:
            last = nn.Linear(width, 1)
            self.head = nn.Sequential(nn.LayerNorm(width), last)
            if self.starts_at_evidence:
                self.skip = evidence_skip(evidence.weight, 2.0, self.evidence_maps)
                nn.init.normal_(last.weight, std=0.01)

    def choose_stages(self, shapes: Sequence[torch.Size]) -> list[int]:
        """The last block for the released head, otherwise four blocks a quarter of the depth apart."""
        last = len(shapes) - 1
        return [last] if self.variant == "released" else sorted({round(last * part / 4) for part in (1, 2, 3, 4)})

    def decode(  # `areas` and `size` are for networks that take areas
        self, features: Features, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        height, width = features.final.shape[-2:]
        evidence: Tensor | None = None
        if self.variant == "released":
            x = features.final if self.trunk is not None else self._normalised(features.stages[-1])
        else:
            tokens = [norm(_tokens(feature)) for feature, norm in zip(features.stages, self.norms, strict=True)]
            tokens.append(_tokens(self.final_norm(features.final)))
            if self.evidence is not None:
                evidence = self.evidence(features, targets)
                tokens.append(_tokens(evidence))
            x = self.project(torch.cat(tokens, -1)).transpose(1, 2).unflatten(2, (height, width))
        if self.query is not None and self.modulate is not None:
            x = self.modulate(x, self.query(targets))
        x = _tokens(x)
        if self.variant == "decoder":
            x = self.blocks(x)
        logits: Tensor = self.head(x).transpose(1, 2).unflatten(2, (height, width))
        if evidence is not None and self.starts_at_evidence:
            logits = logits + self.skip(evidence)
        return logits if self.detail is None else self.detail(logits, x.unflatten(1, (height, width)))

    def with_detail(self) -> MaskNetwork:
        """A copy with masks at stride 4, that shares the tensors; the network itself if its patches are no larger.

        The released head stays as it is. See `PatchDetail`.
        """
        scale = round(self.classifier.input_size[0] / self.feature_shapes[-1][1] / MASK_STRIDE)
        if self.variant == "released" or scale < 2:
            return self
        copy = separate_modules(self)
        copy.detail = PatchDetail(self.project.out_features, scale).to(self.project.weight)
        return copy

    def _normalised(self, tokens: Tensor) -> Tensor:
        """Apply the classifier's last norm to tokens `[B, C, h, w]`."""
        norm = self.classifier.interface.final_norm or nn.Identity()
        normalised: Tensor = norm(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normalised


def _tokens(feature: Tensor) -> Tensor:
    """Reshape `[B, C, h, w]` to `[B, h·w, C]`."""
    return feature.flatten(2).transpose(1, 2)


def is_single_resolution(shapes: Sequence[torch.Size]) -> bool:
    """Whether feature maps of these shapes `[C, h, w]` have one resolution, like those of a plain ViT."""
    return all(a[1:] == b[1:] for a, b in pairwise(shapes))
