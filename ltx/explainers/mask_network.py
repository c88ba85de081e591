"""The base class of mask networks: a trunk, which may be the classifier's own, and a class-conditioned decoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier import feature_maps
from ltx.classifier.class_names import Targets
from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features, feature_shapes, unread_parameters
from ltx.explainers.conditioning import ClassEvidence
from ltx.explainers.trunks import build_trunk
from ltx.masking.fill import Fill
from ltx.results.building import Provenance, build_explanation
from ltx.results.explanation import Explanation
from ltx.runtime.devices import wait_for
from ltx.runtime.errors import InputError, suggest
from ltx.runtime.tensor_arguments import takes

SCOPES = ("head", "decoder", "all")


class MaskNetwork(nn.Module):
    """Maps images and target classes to mask logits on a small grid.

    A subclass implements `choose_stages` and `decode`, and lists the modules of its last layer in `head_modules`.

    Args:
        classifier: the explained model. It is held by reference and not registered as a submodule: its weights are
            not part of this network.
        trunk: `"shared"` = the feature maps of the classifier's own forward pass (frozen, no extra cost); `"copy"` = a
            trainable copy of the classifier's trunk; `"none"` = no features; otherwise a timm name, trainable,
            initialised with the classifier's weights wherever names and shapes agree.
        stages: indices, as timm counts them, of the feature maps that the decoder reads; None = the network's default.
        conditioned: whether the target class modulates the decoder.
        values: whether the class's evidence also comes from the values of the class token's attention, without its
            weights, if the classifier has them (`Features.values`).

    Attributes:
        evidence_maps: number of maps of evidence of the class: 2 with `values` of a classifier that has them, else 1.
        takes_areas: whether the masks have a requested area.
        nested: whether the scores are the same for all areas; only for networks that take areas.
        method: name of the method in explanations.
        finetuning_lr: default learning rate for finetuning.
        training_config: configuration of the training, for networks loaded from a checkpoint.

    Raises:
        InputError: the trunk is unknown or has no feature maps, or a stage does not exist.
    """

    head_modules: ClassVar[tuple[str, ...]]
    takes_areas: ClassVar[bool] = False
    nested: bool = False
    method: ClassVar[str] = "ltx"
    finetuning_lr: float = 1e-3
    trunk_mean: Tensor
    trunk_std: Tensor

    def __init__(
        self, classifier: Classifier, trunk: str, stages: list[int] | None, conditioned: bool, values: bool = True
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.training_config: dict[str, Any] = {}
        self.conditioned = conditioned
        self.stages: list[int] | None = None
        self.feature_shapes: list[torch.Size] = []
        self.shares_trunk = trunk == "shared"
        # The class's head row is not evidence on the final map of another trunk, nor on the patch tokens of a model
        # whose head reads a class token.
        pooled_copy = trunk == "copy" and classifier.num_prefix_tokens == 0
        self.starts_at_evidence = conditioned and (self.shares_trunk or pooled_copy)
        self.evidence_maps = 1
        self.trunk: nn.Module | None = None
        self.never_trained: set[str] = set()
        if trunk == "none":
            if not self.takes_areas:
                raise InputError("explainer.trunk=none: only explainer.name=inr works without image features")
            if stages is not None:
                raise InputError(f"explainer.stages={stages}: explainer.trunk=none has no feature maps; leave it out")
            self.conditioned = False
            return
        if not self.shares_trunk:
            self.trunk, mean, std = build_trunk(classifier, trunk)
            self.register_buffer("trunk_mean", mean, persistent=False)
            self.register_buffer("trunk_std", std, persistent=False)
        self._read_stages(stages)
        if values and conditioned and self.shares_trunk and classifier.interface.read_tokens:
            with torch.no_grad():
                _, features = classifier.logits_and_features(classifier.blank(), [0])
            self.evidence_maps += len(features.values)

    def _read_stages(self, stages: list[int] | None) -> None:
        """Choose the feature maps to read, and freeze the parameters of the trunk that none of them depends on."""
        size = self.classifier.input_size
        shapes = self._shapes(None)[:-1]
        self.stages = self.choose_stages(shapes) if stages is None else [int(stage) for stage in stages]
        for stage in self.stages:
            if not 0 <= stage < len(shapes):
                raise InputError(f"explainer.stages: {stage} is not a stage of the trunk; give 0 to {len(shapes) - 1}")
        self.feature_shapes = self._shapes(self.stages)
        if self.trunk is not None:
            # In distributed training, the processes would wait for gradients that these parameters never receive. The
            # pass above has to come first: in eval mode some models (LeViT) store their attention biases as constants.
            for parameter in unread_parameters(self.trunk, size, self.stages, self.classifier.channels):
                parameter.requires_grad_(False)
            frozen = {name for name, parameter in self.trunk.named_parameters() if not parameter.requires_grad}
            self.never_trained = {f"trunk.{name}" for name in frozen}

    def _shapes(self, stages: list[int] | None) -> list[torch.Size]:
        """Shapes `[C, h, w]` of the trunk's stages and, last, of its final map."""
        if self.trunk is None:
            return self.classifier.feature_shapes(stages)
        return feature_shapes(self.trunk, self.classifier.input_size, stages, self.classifier.channels)

    @property
    def has_evidence(self) -> bool:
        """Whether the evidence of the class is added to the logits.

        This requires a linear head whose rows are as wide as the final map.
        """
        evidence = getattr(self, "evidence", None)
        return hasattr(self, "skip") and isinstance(evidence, ClassEvidence) and evidence.rows is not None

    def choose_stages(self, shapes: Sequence[torch.Size]) -> list[int]:
        """Default stages to read, from the shapes `[C, h, w]` of all of the trunk's maps."""
        raise NotImplementedError

    def decode(
        self, features: Features, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Decode mask logits.

        Args:
            features: feature maps of the images.
            targets: target classes, `[B]`.
            areas: requested areas, `[B, A]`, for networks that take areas.
            size: height and width of the logits, for networks that take areas.

        Returns:
            `[B, 1, h, w]`, or `[B, A, h, w]` for networks that take areas.
        """
        raise NotImplementedError

    def with_detail(self) -> MaskNetwork:
        """The network that finetuning adapts: this one, or a copy that can write finer masks than a forward pass."""
        return self

    def forward(self, images: Tensor, targets: Targets = None) -> Tensor:
        """Compute masks `[B, 1, H, W]` in [0, 1] of images `[B, 3, H, W]`.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            targets: target classes; None = the predicted ones.
        """
        logits, features = self.predict_and_encode(images)
        return self.upsample(self.decode(features, self.classifier.targets(targets, logits)))

    def predict_and_encode(self, images: Tensor) -> tuple[Tensor, Features]:
        """The classifier's logits `[B, K]` and this network's features, from one pass if the trunk is shared."""
        if self.stages is None:
            with torch.no_grad():
                return self.classifier(images), Features([], images[:, :0])
        if self.trunk is None:
            with torch.no_grad():
                logits, features = self.classifier.logits_and_features(images, self.stages)
            return logits, features if self.evidence_maps > 1 else features._replace(values=())
        with torch.no_grad():
            logits = self.classifier(images)
        return logits, self.encode(images)

    @takes(images="float32 [B, .classifier.channels, H, W]")
    def encode(self, images: Tensor) -> Features:
        """Features of the network's own trunk, for images `[B, 3, H, W]`.

        Raises:
            InputError: the trunk is the classifier's.
        """
        if self.trunk is None:
            raise InputError("the trunk is the classifier's own; use predict_and_encode to get its features")
        return feature_maps.features(self.trunk, (images - self.trunk_mean) / self.trunk_std, self.stages)

    def upsample(self, logits: Tensor) -> Tensor:
        """Upsample mask logits `[B, 1, h, w]` bilinearly to masks `[B, 1, H, W]` at the classifier's input size."""
        mask = logits.float().sigmoid()
        return F.interpolate(mask, self.classifier.input_size, mode="bilinear", align_corners=False)

    @takes(scores="float [B, S, h, w]", areas="float [B, A]", allowed="real [B, 1, H, W]")
    def masks(
        self,
        scores: Tensor,
        areas: Tensor | None = None,
        allowed: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Masks `[B, A, H, W]` from decoded scores; `A` is 1 for a network that takes no areas.

        Args:
            scores: output of `decode` for the same areas.
            areas: requested areas, `[B, A]`, for networks that take areas.
            allowed: `[B, 1, H, W]` in [0, 1], pixels that a mask may keep; None = all of them.
            size: height and width, for networks that take areas; None = the classifier's input size.
        """
        mask = self.upsample(scores)
        return mask if allowed is None else _within(mask, allowed)

    def train(self, mode: bool = True) -> MaskNetwork:
        """Like `nn.Module.train`, but the trunk stays in eval mode and keeps the classifier's BatchNorm statistics."""
        super().train(mode)
        if self.trunk is not None:
            self.trunk.eval()
        return self

    def scope(self, name: str) -> list[str]:
        """Names of the parameters in a scope: `head` (last layer), `decoder` (all but the trunk) or `all`.

        Raises:
            InputError: the scope is unknown, or is `all` and the trunk is the classifier's.
        """
        if name not in SCOPES:
            raise InputError(f"scope={name!r} is unknown; allowed: {', '.join(SCOPES)}{suggest(name, SCOPES)}")
        if name == "all" and self.shares_trunk:
            raise InputError(
                "scope=all would change the explained classifier, whose trunk this explainer shares; use scope=decoder"
            )
        # `requires_grad` is not consulted: a frozen explainer can be finetuned, as only copies are adapted.
        trainable = [key for key, _ in self.named_parameters() if key not in self.never_trained]
        if name == "all":
            return trainable
        if name == "head":
            return [key for key in trainable if key.split(".")[0] in self.head_modules]
        return [key for key in trainable if not key.startswith("trunk.")]

    @torch.no_grad()
    def explain(
        self, images: Tensor, targets: Targets = None, fill: Fill | str = "black", names: list[str] | None = None
    ) -> Explanation:
        """Explain images in one forward pass of the network.

        `probability_kept` and `probability_removed` are computed when first read, by one pass of the classifier over
        the kept and the removed pixels.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            targets: target classes; None = the predicted ones.
            fill: fill for removed pixels in the reported probabilities; the first of several.
            names: one name per image.

        Raises:
            InputError: see `checked_images` and `Classifier.targets`.
        """
        images = checked_images(self.classifier, images)
        started = time.perf_counter()
        with evaluating(self):
            logits, features = self.predict_and_encode(images)
            indices = self.classifier.targets(targets, logits)
            scores = self.decode(features, indices)
            maps = self.upsample(scores)
        wait_for(maps.device)
        seconds = (time.perf_counter() - started) / len(images)

        def ask(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
            reusable = self.nested and size is None
            return self.masks(scores if reusable else self.decode(features, indices, areas, size), areas, None, size)

        provenance = Provenance(self.method, fill, names, seconds=seconds)
        return build_explanation(
            self.classifier, images, maps, indices, logits, provenance, ask if self.takes_areas else None
        )


@contextmanager
def evaluating(network: MaskNetwork) -> Iterator[None]:
    """Put the network into eval mode, and back into its previous mode on exit."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def checked_images(classifier: Classifier, images: Tensor) -> Tensor:
    """Validate a user's images for a mask network, whose masks have the classifier's input size.

    Raises:
        InputError: the batch is empty, or see `Classifier.images`.
    """
    images = classifier.images(images)
    if not len(images):
        raise InputError("there is no image: the batch is empty")
    return images


@takes(mask="float [B, S, H, W]", allowed="real [B, 1, H, W]")
def _within(mask: Tensor, allowed: Tensor) -> Tensor:
    return mask * allowed
