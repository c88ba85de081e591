"""The interface between an image classification model and the rest of the library."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

Self = TypeVar("Self", bound="ImageModel")


class Features(NamedTuple):
    """Feature maps of one forward pass, all `[B, C, h, w]`.

    Attributes:
        stages: the maps after the selected stages (or transformer blocks), shallow to deep.
        final: the last map before pooling, normalised as the classification head sees it. In a forward pass that also
            returns logits, and if the head reads a class token: what each patch writes into that token in the last
            block, see `ltx.classifier.class_token.written_into_token`.
        values: in a forward pass whose `final` is what each patch writes into a class token: one map of what each
            patch would write if the token attended to it fully, see `ltx.classifier.class_token.Writing`.
    """

    stages: list[Tensor]
    final: Tensor
    values: tuple[Tensor, ...] = ()


@runtime_checkable
class ImageModel(Protocol):
    """A classification model as explainers, attribution methods and checkpoints see it.

    The adapters are `TimmModel` (timm) and `HookedModel` (torchvision, transformers, any `nn.Module`). An adapter holds
    a module and knows where its parts are. It has no parameters and is not a module: to hook, move or copy the model,
    use `module`. Inputs are normalised images `[B, channels, H, W]`; `Classifier` normalises pixels in [0, 1].

    Attributes:
        module: the model, in eval mode, with frozen parameters. Layer names are those of `module.named_modules()`.
        channels: number of input channels.
        prefix_tokens: number of tokens before the patch tokens (class, distillation, register); 0 for CNNs.
        read_tokens: how many of the prefix tokens the classification head reads, the first ones; 0 if it pools patch
            tokens or a feature map. The final map of a model that reads tokens is evidence of the class token.
        final_norm: the norm between the last transformer block and the head; None if there is none.
    """

    module: nn.Module
    channels: int

    @property
    def prefix_tokens(self) -> int: ...

    @property
    def read_tokens(self) -> int: ...

    @property
    def final_norm(self) -> nn.Module | None: ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits `[B, K]` of inputs `[B, C, H, W]`; one column for a model with a single logit.

        Raises:
            InputError: the module does not return logits.
        """
        ...

    def logits_and_features(self, inputs: Tensor, stages: list[int] | None = None) -> tuple[Tensor, Features]:
        """Logits and feature maps of one forward pass.

        Args:
            inputs: `[B, C, H, W]`.
            stages: indices of the stages, from 0; None = all.

        Raises:
            InputError: the model has no feature maps, see `feature_refusal`.
        """
        ...

    def feature_refusal(self) -> str:
        """Why the model has no feature maps, in one line that says how to name them; empty if it has."""
        ...

    def trunk(self) -> nn.Module:
        """A copy of the model without its classification head, as a trainable feature extractor.

        It has timm's method `forward_intermediates(inputs, indices=…, output_fmt="NCHW") -> (final, maps)`. Its
        parameters require gradients.

        Raises:
            InputError: the model has no feature maps.
        """
        ...

    def grid(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the patch tokens or of the final map at an input size.

        Raises:
            InputError: the model has neither.
        """
        ...

    def feature_shapes(self, input_size: tuple[int, int], stages: list[int] | None = None) -> list[torch.Size]:
        """Shapes `[C, h, w]` of each stage and, last, of the final map at an input size.

        Raises:
            InputError: the model has no feature maps.
        """
        ...

    def head_rows(self) -> Tensor | None:
        """Rows of the linear classification head, float32 `[K, D]`, averaged over several heads; None if not linear."""
        ...

    def rebind(self: Self, module: nn.Module) -> Self:
        """The same adapter for a copy of its module."""
        ...
