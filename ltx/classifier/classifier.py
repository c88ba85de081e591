"""The explained model: frozen, from raw pixels to logits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from timm.data import resolve_model_data_config
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ltx.classifier.batch_norm_fusion import folded
from ltx.classifier.class_names import Target, Targets, class_index, one_each
from ltx.classifier.class_names import class_names as named
from ltx.classifier.feature_maps import Features, feature_shapes, logits_and_features, settled
from ltx.classifier.timm_models import timm_model
from ltx.runtime.errors import InputError, first_line

CPU_ROWS = 4
"""Images that a CPU classifies at once: the activations of more leave its caches, up to twice the time an image."""

OVERSHOOT = 0.25
"""How far outside [0, 1] pixels may lie, as resampling leaves them; bytes and normalised pictures go further."""


class Classifier:
    """A frozen image classifier from raw pixels in [0, 1] to logits.

    It is deliberately no `nn.Module`: an attribute of a LightningModule, it stays out of the optimiser, of
    `state_dict`, of DDP's buckets and of the parent's `.train()`. Gradients flow through it to the pixels.

    Args:
        name: a timm model name, or any `nn.Module` from pixels in [0, 1] (or normalised by `mean`, `std`) to logits.
        weights: None = the pretrained weights of timm's hub or of the offline package; `"random"` = none;
            else a `.safetensors`, `.pth` or `.pt` file. Only for a timm name.
        num_classes: number of classes where it is not the model's own default.
        class_names: one name a class, or a text file with one a line; ImageNet's for models with 1,000 classes.
        head: `"softmax"` (one class an image) or `"sigmoid"` (several labels an image).
        input_size: height and width of the images; None = the model's own.
        mean, std: normalisation, three numbers each; None = the model's own (none for an `nn.Module`).
        precision: `"fp32"`, or `"bf16"` for an autocast forward (logits are fp32 in any case).

    Raises:
        InputError: unknown name, weights that do not fit, class names that do not match the classes, or settings
            that no classifier can have.
    """

    def __init__(
        self,
        name: str | nn.Module = "tf_efficientnet_lite0",
        weights: str | Path | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | str | Path | None = None,
        head: Literal["softmax", "sigmoid"] = "softmax",
        input_size: Sequence[int] | int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        if head not in ("softmax", "sigmoid"):
            raise InputError(f"classifier.head={head!r} is unknown; allowed: softmax, sigmoid")
        if precision not in ("fp32", "bf16"):
            raise InputError(f"classifier.precision={precision!r} is unknown; allowed: fp32, bf16")
        size = _size(input_size)
        for key, numbers in (("mean", mean), ("std", std)):
            if numbers is None:
                continue
            if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (key == "std" and min(numbers) <= 0):
                raise InputError(f"classifier.{key}={list(numbers)}; give three numbers, for red, green and blue")
        if num_classes is not None and num_classes < 1:
            raise InputError(f"classifier.num_classes={num_classes}; give 1 or more")
        if isinstance(name, nn.Module):
            if weights is not None:
                raise InputError(f"classifier.weights={weights} is for a timm name; load them into the module itself")
            self.name, model = type(name).__name__, name
            config: dict[str, Any] = {"input_size": (3, 224, 224), "mean": (0.0,) * 3, "std": (1.0,) * 3}
        else:
            self.name = name
            model = timm_model(name, weights, num_classes, size)
            config = resolve_model_data_config(model)
        self.weights = str(weights) if weights is not None else None
        self.head: Literal["softmax", "sigmoid"] = head
        self.precision: Literal["fp32", "bf16"] = precision
        self.input_size: tuple[int, int] = (int(size[0]), int(size[1])) if size else tuple(config["input_size"][1:])
        self.model = model.eval().requires_grad_(False)
        self._folded: nn.Module | None = None
        self._checkpoints = False
        self._mean, self._std = (
            torch.tensor([float(x) for x in (config[key] if own is None else own)]).view(1, 3, 1, 1)
            for key, own in (("mean", mean), ("std", std))
        )
        self.to(self.device)
        said: int | None = num_classes or getattr(model, "num_classes", None)
        self._check_patches()
        # Whether a timm model takes a size of the user's, or a module has so many classes, shows in a pass.
        tried = num_classes if isinstance(name, nn.Module) else size
        answered = self._count_classes() if tried is not None or not said else 0
        if num_classes is not None and answered not in (0, num_classes):
            raise InputError(f"classifier.num_classes={num_classes}: {self.name} returns {answered} logits")
        self.num_classes: int = said or answered
        if self.num_classes == 1 and head == "softmax":
            raise InputError(f"{self.name} has one class, always of probability 1; set classifier.head=sigmoid")
        self.class_names = named(class_names, self.num_classes)

    # -- the forward pass ------------------------------------------------------------------------------------------

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `[B, K]`, float32, of images `[B, 3, H, W]` in [0, 1]. Differentiable in the images."""
        with self._autocast():
            logits = self._frozen()(self._normalise(images))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(f"{self.name} returns {found}; a classifier returns logits [B, K]")
        return logits.float()

    def logits_and_features(self, images: Tensor, stages: list[int] | None = None) -> tuple[Tensor, Features]:
        """Logits and feature maps of one forward pass, see `ltx.classifier.feature_maps.logits_and_features`."""
        with self._autocast():
            logits, features = logits_and_features(self._frozen(), self._normalise(images), stages)
        return logits.float(), Features([stage.float() for stage in features.stages], features.final.float())

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax or sigmoid of `logits [..., K]`, as this classifier's head is read."""
        return logits.softmax(-1) if self.head == "softmax" else logits.sigmoid()

    def log_probability(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`log p_y` `[B]` of logits `[B, K]` for targets `[B]`."""
        if self.head == "softmax":
            return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        return nn.functional.logsigmoid(logits.gather(1, targets[:, None]).squeeze(1))

    def log_complement(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`log(1 - p_y)` `[B]`, computed without cancellation where `p_y` is near 1."""
        chosen = logits.gather(1, targets[:, None])
        if self.head == "sigmoid":
            return nn.functional.logsigmoid(-chosen.squeeze(1))
        others = logits.scatter(1, targets[:, None], float("-inf"))
        return others.logsumexp(1) - logits.logsumexp(1)

    def _normalise(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images have shape {tuple(images.shape)}; the classifier takes [B, 3, H, W] in [0, 1]")
        return ((images - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _frozen(self) -> nn.Module:
        model = settled(self.model)
        return model if self._folded is None else self._folded

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _check_patches(self) -> None:
        """A vision transformer must read all of its input: maps are enlarged to the whole of it."""
        embed = getattr(self.model, "patch_embed", None)
        if not isinstance(embed, PatchEmbed) or embed.grid_size is None or not embed.strict_img_size:
            return
        covered = [cells * patch for cells, patch in zip(embed.grid_size, embed.patch_size, strict=True)]
        if any(side > read for side, read in zip(self.input_size, covered, strict=True)):
            size, read, patch = ("x".join(map(str, pair)) for pair in (self.input_size, covered, embed.patch_size))
            raise InputError(
                f"classifier.input_size={size}: the patches of {self.name} cover {read} of it; give what they cover, "
                f"or build it for a multiple of {patch}"
            )

    def _count_classes(self) -> int:
        height, width = self.input_size
        try:
            with torch.no_grad():
                return int(self(torch.zeros(1, 3, height, width, device=self.device)).shape[1])
        except InputError:
            raise
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            raise InputError(
                f"classifier.input_size={height}x{width} does not go through {self.name}: {first_line(error)}"
            ) from error
        finally:
            self.model.train().eval()  # LeViT keeps biases between passes in eval mode: weights may still be loaded

    # -- where it lives --------------------------------------------------------------------------------------------

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
        """Compile forwards and backwards of the logits (`torch.compile`), equal to rounding; returns self."""
        self._frozen().compile()
        return self

    def fold_norms(self) -> Classifier:
        """Run a copy of the model with its batch normalisation folded into its convolutions, equal to rounding.

        Forwards and backwards in two thirds of the time for a convolutional model on a CPU. Hooks on `self.model`, and
        what is done to its weights later, do not reach the copy. Returns self.
        """
        self._folded = folded(settled(self.model), self.input_size)
        return self

    @contextmanager
    def unfolded(self) -> Iterator[None]:
        """The model itself runs within, as hooks and attention maps need it: whether or not its normalisation was
        folded, not compiled, and with all activations kept."""
        held, self._folded = self._folded, None
        try:
            if self._checkpoints:
                self.model.set_grad_checkpointing(False)  # type: ignore[operator]
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._folded = held
            if self._checkpoints:
                self.model.set_grad_checkpointing(True)  # type: ignore[operator]

    def checkpoint_activations(self) -> Classifier:
        """Keep fewer activations for the gradient and compute them again (Chen et al. 2016): less memory, a second
        forward pass. Returns self.

        Raises:
            InputError: the model does not offer it.
        """
        try:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError) as error:
            raise InputError(
                f"trainer.checkpoint_activations=true: {self.name} does not offer it; use a smaller data.batch_size "
                "with trainer.accumulate"
            ) from error
        self._checkpoints = True
        return self

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `[1, 3, 1, 1]` each, that pixels in [0, 1] are normalised by."""
        return self._mean, self._std

    # -- what it knows of itself -----------------------------------------------------------------------------------

    def feature_shapes(self, stages: list[int] | None = None) -> list[torch.Size]:
        """`[C, h, w]` of every stage and of the final map at `input_size`."""
        return feature_shapes(self.model, self.input_size, stages)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the token or last feature grid at `input_size`."""
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        if grid is not None and getattr(self.model, "num_prefix_tokens", None) is not None:
            return int(grid[0]), int(grid[1])
        shape = self.feature_shapes()[-1]
        return int(shape[-2]), int(shape[-1])

    @property
    def num_prefix_tokens(self) -> int:
        """Class, distillation and register tokens before the patch tokens; 0 for CNNs."""
        return int(getattr(self.model, "num_prefix_tokens", 0) or 0)

    def class_weights(self) -> Tensor | None:
        """Rows of the classification head `[K, D]`, averaged over a distilled model's two heads; None without one."""
        if not hasattr(self.model, "get_classifier"):
            return None
        heads: Any = self.model.get_classifier()  # type: ignore[operator]
        heads = heads if isinstance(heads, (tuple, list)) else (heads,)
        weights: list[Tensor | None] = [getattr(getattr(h, "linear", h), "weight", None) for h in heads]
        rows = [weight.detach().flatten(1).float() for weight in weights if weight is not None]
        if len(rows) != len(heads) or any(row.shape[0] != self.num_classes for row in rows):
            return None
        return torch.stack(rows).mean(0)

    def fingerprint(self) -> str:
        """A short hash of the architecture's name and weights: the same for the same explained function."""
        digest = hashlib.sha256(f"{self.name}|{self.head}|{self._mean.tolist()}|{self._std.tolist()}".encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- what users give -------------------------------------------------------------------------------------------

    def images(self, given: Tensor) -> Tensor:
        """A user's images as every method takes them: float32 `[B, 3, H, W]`, detached, on the classifier's device.

        Raises:
            InputError: no such tensor, images of another size than `input_size`, or values that are not in [0, 1] but
                for what resampling overshoots.
        """
        wanted = "[B, 3, H, W] in [0, 1]"
        if not isinstance(given, Tensor):
            raise InputError(f"images are of type {type(given).__name__}; give a torch tensor {wanted}")
        if given.ndim != 4 or given.shape[1] != 3:
            raise InputError(f"images have shape {tuple(given.shape)}; give {wanted}")
        if not given.is_floating_point():
            raise InputError(f"images are of {given.dtype}; give numbers {wanted}: of bytes, images / 255")
        images = given.detach().to(self.device, torch.float32)
        if images.numel():
            low, high = torch.stack(images.aminmax()).tolist()
            if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:  # nor NaN
                raise InputError(
                    f"images have values from {low:g} to {high:g}; give {wanted}: the classifier normalises them"
                )
        if tuple(images.shape[-2:]) != self.input_size:
            given_size, own = ("x".join(map(str, size)) for size in (images.shape[-2:], self.input_size))
            raise InputError(f"images of {given_size} pixels; {self.name} takes {own}: resize them, or give input_size")
        # What comes from inference mode cannot take part in gradients, which finetuning and most methods need.
        return images.clone() if images.is_inference() else images

    def targets(self, targets: Targets, logits: Tensor) -> Tensor:
        """Class indices `[B]` on the device of `logits [B, K]`.

        Args:
            targets: see `one_each`.

        Raises:
            InputError: a class that does not exist, or a count that is not the number of images.
        """
        listed = one_each(targets, len(logits))
        if listed is None:
            return logits.argmax(1)
        classes = self.classes(listed)
        predicted = logits.argmax(1).tolist() if "predicted" in classes else [0] * len(logits)
        indices = [p if one == "predicted" else one for one, p in zip(classes, predicted, strict=True)]
        return torch.tensor(indices, device=logits.device)

    def classes(self, asked: Iterable[Target]) -> list[Target]:
        """The index of each class asked about; `"predicted"` stays as it is.

        Raises:
            InputError: see `class_index`.
        """
        listed = list(asked)
        # A name among thousands of images is looked up once; what is no class need not be hashable.
        different = {repr(one): one for one in listed}
        indices = {key: one if one == "predicted" else self.class_index(one) for key, one in different.items()}
        return [indices[repr(one)] for one in listed]

    def class_index(self, target: Target) -> int:
        """The index of a class given by index (also as text) or by name.

        A name is the first of a class's comma-separated synonyms or all of them, else any synonym.

        Raises:
            InputError: no class has that index or name, or several have that name.
        """
        return class_index(target, self.class_names, self.name)

    def label(self, index: int) -> str:
        """The first name of a class."""
        return self.class_names[index].split(",")[0]

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, num_classes={self.num_classes}, input_size={self.input_size})"


# -- settings ----------------------------------------------------------------------------------------------------------


def _size(given: Sequence[int] | int | None) -> tuple[int, int] | None:
    if given is None:
        return None
    sides = [given, given] if isinstance(given, int) else list(given) if isinstance(given, (list, tuple)) else []
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"classifier.input_size={given!r}; give one positive whole number or [height, width]")
    return sides[0], sides[1]
