"""From a classifier's settings to its model: validation, construction, trial pass."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ltx.classifier.choices import HEADS, PRECISIONS, HeadName, Precision
from ltx.classifier.class_names import class_names
from ltx.classifier.feature_maps import supports_features
from ltx.classifier.heads import count_classes
from ltx.classifier.hooked_adapter import Forward, HookedModel, LayerOptions
from ltx.classifier.interface import ImageModel
from ltx.classifier.model_outputs import keyword_call
from ltx.classifier.model_sources import ModelRequest, ModelSource, build_model
from ltx.classifier.timm_adapter import TimmModel
from ltx.classifier.transformers_models import known_stages
from ltx.classifier.trial import check_not_probabilities, run_trial
from ltx.runtime.errors import InputError, first_line

BINARY_NAMES = ["negative", "positive"]


KEYWORDS = (
    *("weights", "weights_key", "num_classes", "class_names", "head", "input_size", "mean", "std", "precision"),
    *("channels", "options", "features", "head_layer", "grid", "prefix_tokens", "forward"),
)
"""Keyword arguments of `Classifier`."""


@dataclass(frozen=True)
class Setup:
    """Validated settings of a classifier.

    Attributes:
        request: which module is built.
        layers: where the parts of a module are.
        forward: how a module is called.
        head: how logits become probabilities.
        precision: of the forward pass.
        num_classes, class_names, mean, std: as given to `Classifier`.
    """

    request: ModelRequest
    layers: LayerOptions
    forward: Forward | None
    head: HeadName
    precision: Precision
    num_classes: int | None
    class_names: Any
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @classmethod
    def checked(cls, name: str | nn.Module | Callable[..., Any], settings: Mapping[str, Any]) -> Setup:
        """Check the keyword arguments of `Classifier`.

        Raises:
            InputError: an invalid value.
        """
        for key in settings:
            if key not in KEYWORDS:
                raise InputError(f"classifier.{key} is unknown; known: {', '.join(sorted(KEYWORDS))}")
        given: dict[str, Any] = {**dict.fromkeys(KEYWORDS), **settings}
        head, head_layer = given["head"] or "softmax", given["head_layer"]
        if head not in HEADS:
            if isinstance(name, str) or head_layer is not None or not isinstance(head, str):
                raise InputError(f"classifier.head={head!r} is unknown; allowed: {', '.join(HEADS)}")
            head, head_layer = "softmax", head
        precision = given["precision"] or "fp32"
        if precision not in PRECISIONS:
            raise InputError(f"classifier.precision={precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
        for key in ("num_classes", "channels"):
            if given[key] is not None and (not isinstance(given[key], int) or given[key] < 1):
                raise InputError(f"classifier.{key}={given[key]}; give 1 or more")
        prefix = given["prefix_tokens"]
        if prefix is not None and (not isinstance(prefix, int) or prefix < 0):
            raise InputError(f"classifier.prefix_tokens={prefix}; give 0 or more")
        size = check_size("input_size", given["input_size"])
        features = given["features"]
        if isinstance(features, str):
            raise InputError(f"classifier.features={features!r}; give a list of module names")
        layers = LayerOptions(
            features=None if features is None else tuple(features),
            head=head_layer,
            grid=check_size("grid", given["grid"]),
            prefix_tokens=prefix,
            single_logit=head == "binary",
        )
        binary = head == "binary" and isinstance(name, str) and (given["weights"] is not None)
        classes = 1 if binary else given["num_classes"]
        if head == "binary" and given["num_classes"] not in (None, 1, 2):
            raise InputError(f"classifier.num_classes={given['num_classes']}: classifier.head=binary has two classes")
        request = ModelRequest(
            name=name,
            weights=given["weights"],
            weights_key=given["weights_key"],
            num_classes=classes,
            size=size,
            channels=given["channels"],
            options=dict(given["options"] or {}),
        )
        return cls(
            request,
            layers,
            given["forward"],
            cast(HeadName, head),
            precision,
            None if head == "binary" else given["num_classes"],
            given["class_names"],
            given["mean"],
            given["std"],
        )


@dataclass(frozen=True)
class Built:
    """A model with its normalisation and classes.

    Attributes:
        interface: the adapter; its module is frozen and in eval mode.
        name: for messages and checkpoints.
        by_timm_name: whether the name alone determines the architecture.
        input_size: height and width.
        mean, std: `[1, C, 1, 1]`.
        num_classes: number of classes.
        class_names: one per class.
        memory_format: of the inputs.
    """

    interface: ImageModel
    name: str
    by_timm_name: bool
    input_size: tuple[int, int]
    mean: Tensor
    std: Tensor
    num_classes: int
    class_names: list[str]
    memory_format: torch.memory_format


def build(setup: Setup) -> Built:
    """Build the model, try it, and count its classes.

    Raises:
        InputError: see `ltx.Classifier`.
    """
    source = build_model(setup.request)
    size = setup.request.size or source.data.size
    if source.data.doubt and setup.mean is None and setup.std is None:
        warnings.warn(source.data.doubt, stacklevel=3)
    interface = _adapter(setup, source, size)
    module = source.module.eval()
    for parameter in module.parameters():  # scripted modules have no `requires_grad_`
        parameter.requires_grad_(False)
    mean = _per_channel("mean", setup.mean, source.data.mean, source.channels)
    std = _per_channel("std", setup.std, source.data.std, source.channels)
    is_timm = hasattr(module, "pretrained_cfg")
    memory_format = torch.channels_last if is_timm else torch.contiguous_format
    device = next(module.parameters(), mean).device
    placed = mean.to(device), std.to(device)

    def normalise(images: Tensor) -> Tensor:
        return ((images - placed[0]) / placed[1]).contiguous(memory_format=memory_format)

    _check_patches(module, size, source.name)
    outputs = getattr(module, "num_classes", None) or 0
    if not source.trusted:
        logits = run_trial(interface, normalise, size, source.name)
        check_not_probabilities(logits, setup.head, source.name)
        outputs = logits.shape[1]
        module.train().eval()  # drop what some modules cache between passes in eval mode
    elif setup.request.size is not None or not outputs:
        outputs = _count_outputs(interface, normalise, size, source.name)
    expected = setup.num_classes
    if expected is not None and outputs != expected:
        raise InputError(f"classifier.num_classes={expected}: {source.name} returns {outputs} logits")
    num_classes = count_classes(setup.head, outputs, source.name)
    names: Any = setup.class_names
    if names is None and setup.head == "binary":
        names = BINARY_NAMES
    elif names is None and source.class_names is not None and len(source.class_names) == num_classes:
        names = source.class_names
    return Built(
        interface=interface,
        name=source.name,
        by_timm_name=source.trusted,
        input_size=size,
        mean=mean,
        std=std,
        num_classes=num_classes,
        class_names=class_names(names, num_classes),
        memory_format=memory_format,
    )


def _adapter(setup: Setup, source: ModelSource, size: tuple[int, int]) -> ImageModel:
    named = [key for key, value in vars(setup.layers).items() if value is not None and key != "single_logit"]
    if source.trusted or (supports_features(source.module) and not named and setup.forward is None):
        if named or setup.forward is not None:
            raise InputError(
                f"classifier.{(named or ['forward'])[0]}: {source.name} is a timm model, whose layers are known"
            )
        return TimmModel(source.module, source.channels)
    layers = setup.layers
    if layers.features is None:
        layers = replace(layers, features=known_stages(source.module))
    forward = setup.forward or keyword_call(source.module)
    return HookedModel(source.module, source.channels, size, forward, layers)


def _per_channel(key: str, values: Sequence[float] | None, default: Sequence[float], channels: int) -> Tensor:
    """`[1, C, 1, 1]`; a default for another number of channels is averaged over them."""
    if values is None:
        numbers = [float(value) for value in default]
        if len(numbers) != channels:
            numbers = [sum(numbers) / len(numbers)] * channels
        return torch.tensor(numbers).view(1, -1, 1, 1)
    numbers = [float(value) for value in values]
    if len(numbers) != channels or not all(map(math.isfinite, numbers)) or (key == "std" and min(numbers) <= 0):
        of = "three numbers, for red, green and blue" if channels == 3 else f"{channels} numbers, one per channel"
        raise InputError(f"classifier.{key}={list(values)}; give {of}")
    return torch.tensor(numbers).view(1, -1, 1, 1)


def check_size(key: str, sides: Any) -> tuple[int, int] | None:
    """Height and width from one side or two; None for None.

    Raises:
        InputError: neither.
    """
    if sides is None:
        return None
    listed = [sides, sides] if isinstance(sides, int) else list(sides) if isinstance(sides, (list, tuple)) else []
    if len(listed) != 2 or not all(isinstance(side, int) and side > 0 for side in listed):
        raise InputError(f"classifier.{key}={sides!r}; give one positive integer or [height, width]")
    return listed[0], listed[1]


def _check_patches(module: nn.Module, input_size: tuple[int, int], name: str) -> None:
    """A timm vision transformer must read its whole input, because maps are upsampled to all of it."""
    embed = getattr(module, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or embed.grid_size is None or not embed.strict_img_size:
        return
    covered = [cells * patch for cells, patch in zip(embed.grid_size, embed.patch_size, strict=True)]
    if any(side > read for side, read in zip(input_size, covered, strict=True)):
        size, read, patch = ("x".join(map(str, pair)) for pair in (input_size, covered, embed.patch_size))
        raise InputError(
            f"classifier.input_size={size}: the patches of {name} cover {read} of it; use that size, "
            f"or build it for a multiple of {patch}"
        )


def _count_outputs(
    interface: ImageModel, normalise: Callable[[Tensor], Tensor], size: tuple[int, int], name: str
) -> int:
    parameter = next(interface.module.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            zeros = torch.zeros(1, interface.channels, *size, device=parameter.device)
            return int(interface.logits(normalise(zeros)).shape[1])
    except InputError:
        raise
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"classifier.input_size={size[0]}x{size[1]} does not go through {name}: {first_line(error)}"
        ) from error
    finally:
        interface.module.train().eval()  # LeViT caches attention biases in eval mode: weights may still be loaded
