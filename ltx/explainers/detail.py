"""Detail of a mask within the patches of a vision transformer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ltx.runtime.seeds import seeded

WIDTH = 16
"""Channels at the mask's resolution, as many as the U-Net decoder has at its finest level."""


class PatchDetail(nn.Module):
    """Adds to one logit per patch what differs within the patches: a sub-pixel convolution (Shi et al., CVPR 2016).

    A linear layer writes `scale` × `scale` vectors for each patch, and two convolutions relate neighbours across the
    patches' borders. The last convolution starts at zero: the first masks are those of the patches, upsampled. The
    other weights start at random, always the same. A pattern that is the same in all patches says nothing about the
    image, but would disturb a classifier that reads patches; so the mean over the patches is subtracted.

    Args:
        width: width of the tokens.
        scale: values per patch and side.

    Shape: logits `[B, 1, h, w]` and tokens `[B, h, w, C]` to logits `[B, 1, h·scale, w·scale]`.
    """

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, WIDTH * scale**2, device="meta")
        self.mix = nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, device="meta")
        self.mixed = nn.GroupNorm(1, WIDTH)
        self.last = nn.Conv2d(WIDTH, 1, kernel_size=3, padding=1, bias=False, device="meta")
        # PyTorch's own initialisation would draw from the generator that is shared by all threads.
        generator = seeded(0)
        for layer in (self.project, self.mix, self.last):
            layer.to_empty(device="cpu")
            bound = 0 if layer is self.last else layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, logits: Tensor, tokens: Tensor) -> Tensor:
        vectors = self.project(self.norm(tokens)).permute(0, 3, 1, 2)
        x = F.gelu(F.pixel_shuffle(vectors, self.scale))
        x = self.last(F.gelu(self.mixed(self.mix(x))))
        cells = F.pixel_unshuffle(x, self.scale)
        detail = F.pixel_shuffle(cells - cells.mean((2, 3), keepdim=True), self.scale)
        return F.interpolate(logits, detail.shape[-2:], mode="bilinear", align_corners=False) + detail
