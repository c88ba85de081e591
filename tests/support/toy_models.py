"""Small models with known attributions."""

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class ThreeStages(nn.Module):
    """Maps of 8 x 8, 4 x 4 and 2 x 2, in-place activations, then pooling and two layers."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Conv2d(6, 8, 2, 2), nn.ReLU(inplace=True))
        self.last = nn.Sequential(nn.Conv2d(8, 10, 2, 2), nn.ReLU(inplace=True))
        self.hidden = nn.Linear(40, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.last(self.middle(self.stem(x))).flatten(1)).relu())


class Shortcuts(nn.Module):
    """Three maps, each added in place to a layer's output, as in timm's residual networks."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, 2)
        self.short = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(3))
        self.long = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for short, long in zip(self.short, self.long, strict=True):
            y = short(x)
            y += long(x).tanh()
            x = y
        return self.head(x.mean((2, 3)))


def seeded(model: nn.Module, scale: float = 1.0) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / fan**0.5)
    return model


def vit(depth: int = 3, **options) -> VisionTransformer:
    shape = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
    kind = VisionTransformerDistilled if options.pop("distilled", False) else VisionTransformer
    return seeded(kind(depth=depth, **shape, **options), scale=2.0)
