"""The module that is exported: from raw pixels and a target class to logits and mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ltx.classifier.classifier import Classifier
from ltx.classifier.timm_adapter import TimmModel
from ltx.explainers.conditioning import ClassEvidence, ClassQuery
from ltx.explainers.mask_network import MaskNetwork

Pixels = Literal["uint8", "float"]
Weights = Literal["fp32", "fp16", "int16"]

PREDICTED = -1
"""Target that stands for the predicted class."""

SMALL = 1024
"""Tensors with fewer values keep their precision when weights are stored in 16 bits."""


class ExplainerGraph(nn.Module):
    """Classifier and mask network as one module, with the preprocessing inside.

    Inputs are `image [B, C, H, W]` at the classifier's input size, `target [B]` int64 (`PREDICTED` = the predicted
    class) and, for a network with masks of any area, `area [B, 1]` in (0, 1). Outputs are `logits [B, K]` and
    `mask [B, 1, H, W]` in [0, 1].

    Args:
        explainer: a network that nothing else uses: its copies of a timm model's head are replaced by references.
        pixels: `uint8` = images from 0 to 255, `float` = from 0 to 1.
        weights: how weights are stored: as they are, in half precision, or in 16-bit integers with a scale for each
            output. They are converted back when the graph is loaded: it computes in single precision.
    """

    def __init__(self, explainer: MaskNetwork, pixels: Pixels = "uint8", weights: Weights = "fp32") -> None:
        super().__init__()
        self.explainer = explainer
        self.model = explainer.classifier.model  # registered, so that its weights belong to the graph
        self.pixels, self.weights = pixels, weights
        _refer_to_the_head(explainer)
        _store(self, weights)
        self.eval()

    def forward(self, image: Tensor, target: Tensor, area: Tensor | None = None) -> tuple[Tensor, Tensor]:
        explainer = self.explainer
        images = image.float() / 255 if self.pixels == "uint8" else image
        logits, features = explainer.predict_and_encode(images)
        targets = torch.where(target < 0, logits.argmax(1), target)
        if area is None:
            return logits, explainer.upsample(explainer.decode(features, targets))
        return logits, explainer.masks(explainer.decode(features, targets, area), area)

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in the order of `forward`."""
        return ["image", "target", "area"] if self.explainer.takes_areas else ["image", "target"]

    def example(self, count: int = 2) -> tuple[Tensor, ...]:
        """Random inputs for a batch of `count` images."""
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(self.explainer.classifier.blank(count).shape, generator=generator)
        return self.arguments(image, torch.arange(count) - 1)

    def arguments(self, images: Tensor, targets: Tensor, area: float = 0.2) -> tuple[Tensor, ...]:
        """The graph's inputs for images `[B, C, H, W]` in [0, 1] and targets `[B]`."""
        image = (images * 255).round().byte() if self.pixels == "uint8" else images
        areas = (torch.full((len(images), 1), area),) if self.explainer.takes_areas else ()
        return image, targets, *areas


class HeadRows(nn.Module):
    """Rows of a timm model's head minus their mean, divided by a scale; reads the head instead of copying it.

    Three quarters of a small classifier's exported explainer would otherwise be copies of one matrix.

    Args:
        classifier: the explained model, timm's; its head has weights and one row for each class.
        scaled: divide each row by its standard deviation, as `ClassQuery` does.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, classifier: Classifier, scaled: bool) -> None:
        super().__init__()
        heads: Any = classifier.model.get_classifier()  # type: ignore[operator]
        # Not registered: they are the classifier's.
        self._heads = tuple(heads) if isinstance(heads, (tuple, list)) else (heads,)
        rows = classifier.class_weights()
        assert rows is not None
        mean = rows.mean(0) if classifier.head == "softmax" else torch.zeros_like(rows[0])
        deviation = (rows - mean).std(1, keepdim=True).clamp_min(1e-6)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", deviation if scaled else torch.ones_like(deviation))

    def __getitem__(self, targets: Tensor) -> Tensor:
        weights = [getattr(head, "linear", head).weight for head in self._heads]
        rows = torch.stack([weight[targets].flatten(1).float() for weight in weights]).mean(0)
        return (rows - self.mean) / self.scale[targets]


def _refer_to_the_head(explainer: MaskNetwork) -> None:
    classifier = explainer.classifier
    # Other models do not say where their head is, and a binary head has one row for two classes: those keep the copies.
    if not isinstance(classifier.interface, TimmModel) or classifier.head == "binary":
        return
    if classifier.class_weights() is None:
        return
    for module in list(explainer.modules()):
        if isinstance(module, (ClassQuery, ClassEvidence)) and module.rows is not None:
            del module.rows
            module.rows = HeadRows(classifier, scaled=isinstance(module, ClassQuery))  # type: ignore[assignment]


class _Half(nn.Module):
    """A tensor that is stored in half precision and read in single precision."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()

    def right_inverse(self, value: Tensor) -> tuple[Tensor]:
        return (value.half(),)  # alone, a tensor may not change its type


class _FixedPoint(nn.Module):
    """A tensor that is stored in 16-bit integers, with a scale for each row of its first axis.

    As large as half precision and ten times as close: half precision spends 5 of its bits on exponents that the values
    of one row hardly use.
    """

    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        return stored.float() * scale

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        axes = tuple(range(1, value.ndim))
        scale = value.abs().amax(axes, keepdim=True).clamp_min(1e-12) / 32767
        return (value / scale).round().to(torch.int16), scale


def _store(graph: nn.Module, weights: Weights) -> None:
    if weights == "fp32":
        return
    graph.requires_grad_(False)  # integers have no gradient
    for module, name in list(_large_tensors(graph)):
        form = _Half() if weights == "fp16" else _FixedPoint()
        parametrize.register_parametrization(module, name, form, unsafe=True)


def _large_tensors(graph: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in graph.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.dtype == torch.float32 and tensor.numel() >= SMALL and tensor.ndim > 1:
                yield module, name
