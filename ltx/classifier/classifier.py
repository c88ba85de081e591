"""The explained model: frozen, from raw pixels to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ltx.classifier import heads, identity
from ltx.classifier.batch_norm_fusion import folded
from ltx.classifier.building import Setup, build
from ltx.classifier.choices import HeadName, Precision
from ltx.classifier.class_names import Target, Targets, class_index, one_each
from ltx.classifier.feature_maps import in_eval_mode
from ltx.classifier.interface import Features, ImageModel
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import tree_map
from ltx.runtime.tensor_arguments import takes

CPU_ROWS = 4
"""Batch size on a CPU: the activations of more images exceed its caches, which takes up to twice the time per image."""

OVERSHOOT = 0.25
"""How far pixels may lie outside [0, 1], as after resampling; bytes and normalised images go further."""


class ModelOptions(TypedDict, total=False):
    """Further keyword arguments of `Classifier`, all optional.

    Attributes:
        channels: number of input channels; default: the model's own.
        weights_key: entry of the weights file, for instance `state_dict_ema`; default: chosen.
        options: keyword arguments for the function that builds a model by name.
        features: names of the modules whose outputs are the feature maps of the stages, shallow to deep. Default:
            inferred, each resolution of a pyramid or each block of a transformer. Not for timm models.
        head_layer: name of the linear classification layer; default: inferred.
        grid: height and width of the patch tokens; default: inferred from the patch embedding.
        prefix_tokens: number of class, distillation and register tokens before them; default: inferred.
        forward: `forward(module, inputs) -> logits [B, K]`, how a module is called; default: `module(inputs)`, with
            the logits taken from a tuple, a dict or a transformers output.
    """

    channels: int | None
    weights_key: str | None
    options: Mapping[str, Any] | None
    features: Sequence[str] | None
    head_layer: str | None
    grid: Sequence[int] | None
    prefix_tokens: int | None
    forward: Callable[[nn.Module, Tensor], Any] | None


class Classifier:
    """A frozen image classifier from raw pixels in [0, 1] to logits.

    It is deliberately not an `nn.Module`: as an attribute of a LightningModule, it stays out of the optimiser,
    `state_dict`, DDP's buckets and `.train()`. Gradients flow through it to the pixels.

    Args:
        name: a timm name (`resnet18`), `torchvision:resnet50`, `hf:FOLDER` (transformers),
            `package.module:function`, or any `nn.Module` or function from images to logits. Of a module a frozen
            copy in eval mode with float32 weights is kept; the caller's object does not change. It is tried on two
            images first, see `ltx.classifier.trial`.
        weights: None = pretrained (or as the module is); `"random"` = none; otherwise a `.safetensors`, `.pth` or
            `.pt` file, see `ltx.classifier.weight_files`. Only for a model by name.
        num_classes: number of classes; None = the model's own.
        class_names: one name per class, or a text file with one per line; None = those of a transformers
            configuration, ImageNet's for 1,000 classes, or the indices.
        head: `"softmax"` (one class per image), `"sigmoid"` (several labels per image) or `"binary"` (one logit for
            two classes, which can both be targets). Another value is taken as `head_layer`.
        input_size: height and width of the images; None = the model's own, or 224.
        mean, std: normalisation, one number per channel; None = the model's own. For a module that is not timm's:
            none, the module takes pixels in [0, 1].
        precision: `"fp32"`, or `"bf16"` for an autocast forward pass (logits are float32 in any case).
        options: see `ModelOptions`.

    Raises:
        InputError: unknown name, weights or class names that do not fit, invalid settings, or a module that is not a
            deterministic, differentiable classifier of a batch of images.

    Example:
        >>> Classifier("torchvision:resnet18", weights="random", num_classes=10, input_size=64)
        Classifier('torchvision:resnet18', num_classes=10, input_size=(64, 64))
        >>> Classifier(module, features=["layer1", "layer2"], head_layer="fc", input_size=64)  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str | nn.Module | Callable[[Tensor], Any] = "tf_efficientnet_lite0",
        weights: str | Path | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | str | Path | None = None,
        head: HeadName | str = "softmax",
        input_size: Sequence[int] | int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        precision: Precision = "fp32",
        **options: Unpack[ModelOptions],
    ) -> None:
        setup = Setup.checked(
            name,
            {
                **{"weights": weights, "num_classes": num_classes, "class_names": class_names, "head": head},
                **{"input_size": input_size, "mean": mean, "std": std, "precision": precision, **options},
            },
        )
        built = build(setup)
        self.setup = setup
        self.name, self.weights = built.name, str(weights) if weights is not None else None
        self.head, self.precision = setup.head, setup.precision
        self.input_size, self.channels = built.input_size, built.interface.channels
        self.num_classes, self.class_names = built.num_classes, built.class_names
        self._interface: ImageModel = built.interface
        self._folded: nn.Module | None = None
        self._checkpoints = False
        self._by_timm_name = built.by_timm_name
        self._memory_format = built.memory_format
        self._mean, self._std = built.mean, built.std
        self.to(self.device)

    # -- the forward pass ------------------------------------------------------------------------------------------

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `[B, K]`, float32, of images `[B, C, H, W]` in [0, 1]. Differentiable in the images."""
        return self.logits(self._normalise(images))

    @takes(inputs="float [B, .channels, H, W]")
    def logits(self, inputs: Tensor) -> Tensor:
        """Logits `[B, K]`, float32, of normalised images `[B, C, H, W]`."""
        with self._autocast(), self._same_type(inputs):
            logits = self._frozen_interface().logits(inputs)
        return heads.expand_logits(self.head, logits.float())

    def logits_and_features(self, images: Tensor, stages: list[int] | None = None) -> tuple[Tensor, Features]:
        """Logits and feature maps of one forward pass, float32; see `ImageModel.logits_and_features`."""
        inputs = self._normalise(images)
        with self._autocast(), self._same_type(inputs):
            logits, maps = self._frozen_interface().logits_and_features(inputs, stages)
        return heads.expand_logits(self.head, logits.float()), tree_map(Tensor.float, maps)

    @takes(logits="float [..., K]")
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of `logits [..., K]`: softmax, or sigmoid for the heads `sigmoid` and `binary`."""
        return heads.probabilities(self.head, logits)

    @takes(logits="float [B, K]", targets="int64 [B]")
    def log_probability(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`log p_y` `[B]` of logits `[B, K]` for targets `[B]`."""
        return heads.log_probability(self.head, logits, targets)

    @takes(logits="float [B, K]", targets="int64 [B]")
    def log_complement(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`log(1 - p_y)` `[B]`, computed without cancellation if `p_y` is near 1."""
        return heads.log_complement(self.head, logits, targets)

    @takes(images="float [B, .channels, H, W]")
    def _normalise(self, images: Tensor) -> Tensor:
        return ((images - self._mean) / self._std).contiguous(memory_format=self._memory_format)

    @contextmanager
    def _same_type(self, inputs: Tensor) -> Iterator[None]:
        """Name the types of inputs and weights in the error if they differ."""
        try:
            yield
        except RuntimeError as error:
            weights = next(self.model.parameters(), inputs).dtype
            if inputs.dtype == weights:
                raise
            raise InputError(
                f"inputs or images are {inputs.dtype} and the weights of {self.name} are {weights}; give images of "
                f"{weights}"
            ) from error

    def _frozen(self) -> nn.Module:
        """The module that forward passes run: the model, or its copy with fused normalisation."""
        model = in_eval_mode(self.model)
        return model if self._folded is None else self._folded

    def _frozen_interface(self) -> ImageModel:
        module = self._frozen()
        return self._interface if module is self._interface.module else self._interface.rebind(module)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    # -- the model -------------------------------------------------------------------------------------------------

    @property
    def interface(self) -> ImageModel:
        """The adapter of the model: feature maps, tokens, head. See `ltx.classifier.interface.ImageModel`."""
        return self._interface

    @property
    def model(self) -> nn.Module:
        """The frozen module. Assigning a copy of it, with other weights, makes the classifier use that."""
        return self._interface.module

    @model.setter
    def model(self, module: nn.Module) -> None:
        self._interface = self._interface.rebind(module)

    def blank(self, count: int = 1) -> Tensor:
        """Black images `[count, C, H, W]` at `input_size`, on the device."""
        return torch.zeros(count, self.channels, *self.input_size, device=self.device)

    @property
    def device(self) -> torch.device:
        parameter = next(self.model.parameters(), None)
        return parameter.device if parameter is not None else self._mean.device

    def to(self, device: torch.device | str) -> Classifier:
        """Move the model and its normalisation; returns self."""
        self.model.to(device)
        if self._folded is not None:
            self._folded.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def compile(self) -> Classifier:
        """Compile forward and backward passes with `torch.compile`, equal up to rounding; returns self."""
        self._frozen().compile()
        return self

    def fold_norms(self) -> Classifier:
        """Run a copy of the model with batch normalisation fused into its convolutions, equal up to rounding.

        Forward and backward passes of a convolutional model take two thirds of the time on a CPU. Hooks on
        `self.model` and later changes of its weights do not affect the copy. Returns self.
        """
        model = in_eval_mode(self.model)
        self._folded = folded(model, self.blank(2).shape, lambda module: self._interface.rebind(module).logits)
        return self

    @contextmanager
    def unfolded(self) -> Iterator[None]:
        """Context in which forward passes run `self.model` itself, as hooks and attention maps need it.

        It is neither fused nor compiled, and keeps all activations.
        """
        fused, self._folded = self._folded, None
        try:
            if self._checkpoints:
                self.model.set_grad_checkpointing(False)  # type: ignore[operator]  # timm's method
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._folded = fused
            if self._checkpoints:
                self.model.set_grad_checkpointing(True)  # type: ignore[operator]  # timm's method

    def checkpoint_activations(self) -> Classifier:
        """Recompute activations in the backward pass (Chen et al. 2016): less memory, a second forward pass.

        Returns self.

        Raises:
            InputError: the model does not support it.
        """
        try:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]  # timm's method
        except (AttributeError, AssertionError, TypeError) as error:
            raise InputError(
                f"trainer.checkpoint_activations=true: {self.name} does not support it; use a smaller data.batch_size "
                "with trainer.accumulate"
            ) from error
        self._checkpoints = True
        return self

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `[1, C, 1, 1]` each, by which pixels in [0, 1] are normalised."""
        return self._mean, self._std

    def feature_shapes(self, stages: list[int] | None = None) -> list[torch.Size]:
        """`[C, h, w]` of every stage (or of some) and of the final map at `input_size`.

        Raises:
            InputError: the model has no feature maps, or not these.
        """
        reason = self._interface.feature_refusal()
        if reason:
            raise InputError(reason)
        if stages is not None:
            last = len(self._interface.feature_shapes(self.input_size)) - 2
            for stage in stages:
                if not 0 <= stage <= last:
                    raise InputError(f"stage {stage} of {self.name} does not exist; it has stages 0 to {last}")
        return self._interface.feature_shapes(self.input_size, stages)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patch tokens, or of the final map, at `input_size`."""
        return self._interface.grid(self.input_size)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class, distillation and register tokens before the patch tokens; 0 for CNNs."""
        return self._interface.prefix_tokens

    def class_weights(self) -> Tensor | None:
        """Rows of the linear classification head `[K, D]`, averaged over the heads of a distilled model, or None."""
        rows = self._interface.head_rows()
        if rows is None:
            return None
        rows = heads.expand_rows(self.head, rows)
        return rows if rows.shape[0] == self.num_classes else None

    def fingerprint(self) -> str:
        """A short hash of architecture, weights, head and normalisation; see `ltx.classifier.identity.results_key`."""
        name = self.name if self._by_timm_name else None
        return identity.fingerprint(self.model, self.head, self._mean, self._std, name)

    # -- user input ------------------------------------------------------------------------------------------------

    def images(self, images: Tensor) -> Tensor:
        """Check a user's images; returns them as float32 `[B, C, H, W]`, detached, on the classifier's device.

        Raises:
            InputError: not a float tensor of this shape, another size than `input_size`, or values further outside
                [0, 1] than resampling leaves them.
        """
        expected = f"[B, {self.channels}, H, W] in [0, 1]"
        if not isinstance(images, Tensor):
            raise InputError(f"images are of type {type(images).__name__}; give a torch tensor {expected}")
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise InputError(f"images have shape {tuple(images.shape)}; give {expected}")
        if not images.is_floating_point():
            raise InputError(f"images are of {images.dtype}; give numbers {expected}: of bytes, images / 255")
        pixels = images.detach().to(self.device, torch.float32)
        if pixels.numel():
            low, high = torch.stack(pixels.aminmax()).tolist()
            if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:  # nor NaN
                raise InputError(
                    f"images have values from {low:g} to {high:g}; give {expected}: the classifier normalises them"
                )
        if tuple(pixels.shape[-2:]) != self.input_size:
            size, required = ("x".join(map(str, sides)) for sides in (pixels.shape[-2:], self.input_size))
            raise InputError(f"images of {size} pixels; {self.name} takes {required}: resize them, or give input_size")
        # Tensors from inference mode cannot take part in gradients, which finetuning and most methods need.
        return pixels.clone() if pixels.is_inference() else pixels

    @takes(logits="float [B, .num_classes]")
    def targets(self, targets: Targets, logits: Tensor) -> Tensor:
        """Class indices `[B]` on the device of `logits [B, K]`.

        Args:
            targets: see `one_each`.
            logits: their maximum gives the predicted classes.

        Raises:
            InputError: a class that does not exist, or a count that differs from the number of images.
        """
        listed = one_each(targets, len(logits), "images (rows of logits)")
        if listed is None:
            return logits.argmax(1)
        classes = self.classes(listed)
        predicted = logits.argmax(1).tolist() if "predicted" in classes else [0] * len(logits)
        indices = [p if one == "predicted" else one for one, p in zip(classes, predicted, strict=True)]
        return tensor_on(logits.device, indices, torch.long)

    def classes(self, targets: Iterable[Target]) -> list[Target]:
        """The index of each target class; `"predicted"` is kept.

        Raises:
            InputError: see `class_index`.
        """
        listed = list(targets)
        # Each distinct name is looked up once; an invalid target need not be hashable.
        distinct = {repr(target): target for target in listed}
        indices = {key: one if one == "predicted" else self.class_index(one) for key, one in distinct.items()}
        return [indices[repr(target)] for target in listed]

    def class_index(self, target: Target) -> int:
        """The index of a class, by index (also as text) or by name.

        A name is the first of a class's comma-separated synonyms or all of them, otherwise any synonym.

        Raises:
            InputError: no class has that index or name, or several have that name.
        """
        return class_index(target, self.class_names, self.name)

    def label(self, index: int) -> str:
        """The first name of a class."""
        return self.class_names[index].split(",")[0]

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, num_classes={self.num_classes}, input_size={self.input_size})"
