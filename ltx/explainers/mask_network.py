"""What every mask network is: a trunk that may be the classifier's own, a decoder, and the question of a class."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ltx.classifier.class_names import Targets
from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features, feature_shapes, features, supports_features, unread_parameters
from ltx.explainers.conditioning import ClassEvidence
from ltx.masking.fill import Fill
from ltx.results.explanation import Explanation
from ltx.results.masked_probabilities import MaskedProbabilities
from ltx.results.masks_by_area import AreaMasks, Ask
from ltx.runtime.errors import InputError, suggest

SCOPES = ("head", "decoder", "all")

AREA = 0.2
"""Of a network that takes areas, the mask of this one stands in an explanation unless another is asked for."""


class MaskNetwork(nn.Module):
    """An image, and the class asked about, to mask logits on a small grid; knows nothing of losses.

    A network adds `decode(features, targets) -> logits [B, 1, h, w]` and names the modules of its last layer in
    `head_modules`.

    Args:
        classifier: the explained model. Held by reference, never registered: its weights are no part of this network.
        trunk: `"shared"` = the classifier's own feature maps, which its prediction computes anyway (frozen, free);
            `"copy"` = a trainable copy of the classifier's trunk; `"none"` = no features at all; else a timm name,
            trainable, initialised from the classifier's weights wherever names and shapes agree.
        stages: which feature maps the decoder reads, as timm counts them; None = the network's own choice.
        conditioned: whether the class asked about modulates the decoder.

    Raises:
        InputError: the trunk is unknown or keeps no feature maps.
    """

    head_modules: ClassVar[tuple[str, ...]]
    takes_areas: ClassVar[bool] = False
    nested: bool = False  # of a network that takes areas: its scores are the same for all of them
    method: ClassVar[str] = "ltx"
    finetuning_lr: float = 1e-3
    trunk_mean: Tensor
    trunk_std: Tensor

    def __init__(self, classifier: Classifier, trunk: str, stages: list[int] | None, conditioned: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.made_with: dict[str, Any] = {}  # the configuration of its training, where it was loaded from a checkpoint
        self.conditioned = conditioned
        self.stages: list[int] | None = None
        self.feature_shapes: list[torch.Size] = []
        self.shares_trunk = trunk == "shared"
        # The class's head row says what the final map of another trunk shows no more than what a token's patches show.
        pooled_copy = trunk == "copy" and classifier.num_prefix_tokens == 0
        self.starts_at_evidence = conditioned and (self.shares_trunk or pooled_copy)
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
            self.trunk, mean, std = _own_trunk(classifier, trunk)
            self.register_buffer("trunk_mean", mean, persistent=False)
            self.register_buffer("trunk_std", std, persistent=False)
        source = classifier.model if self.trunk is None else self.trunk
        shapes = feature_shapes(source, classifier.input_size)[:-1]
        self.stages = self.choose_stages(shapes) if stages is None else [int(stage) for stage in stages]
        for stage in self.stages:
            if not 0 <= stage < len(shapes):
                raise InputError(f"explainer.stages: {stage} is no stage of the trunk; it has 0 to {len(shapes) - 1}")
        self.feature_shapes = feature_shapes(source, classifier.input_size, self.stages)
        if self.trunk is not None:
            # Processes that train together would wait in vain for the gradients of these. The pass above comes first:
            # in eval mode some models (LeViT) keep their attention biases from it, which makes them constants.
            for parameter in unread_parameters(self.trunk, classifier.input_size, self.stages):
                parameter.requires_grad_(False)
            frozen = {name for name, parameter in self.trunk.named_parameters() if not parameter.requires_grad}
            self.never_trained = {f"trunk.{name}" for name in frozen}

    @property
    def has_evidence(self) -> bool:
        """Whether the class's evidence is a part of the logits: it takes a linear head as wide as the final map."""
        evidence = getattr(self, "evidence", None)
        return hasattr(self, "skip") and isinstance(evidence, ClassEvidence) and evidence.rows is not None

    def choose_stages(self, shapes: Sequence[torch.Size]) -> list[int]:
        """Which of the trunk's maps (shapes `[C, h, w]`) the decoder reads when nobody says."""
        raise NotImplementedError

    def decode(
        self, found: Features, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Mask logits `[B, 1, h, w]` from feature maps and class indices `[B]`.

        Args:
            areas, size: for networks that take areas: `[B, A]`, and height and width of the scores `[B, A, h, w]`.
        """
        raise NotImplementedError

    def forward(self, images: Tensor, targets: Targets = None) -> Tensor:
        """The mask `[B, 1, H, W]` in [0, 1] of images `[B, 3, H, W]`; `targets` None = the predicted classes."""
        logits, found = self.predict_and_encode(images)
        return self.upsample(self.decode(found, self.classifier.targets(targets, logits)))

    def predict_and_encode(self, images: Tensor) -> tuple[Tensor, Features]:
        """The classifier's logits `[B, K]` and this network's features: one pass where the trunk is shared."""
        if self.stages is None:
            with torch.no_grad():
                return self.classifier(images), Features([], images[:, :0])
        if self.trunk is None:
            with torch.no_grad():
                return self.classifier.logits_and_features(images, self.stages)
        with torch.no_grad():
            logits = self.classifier(images)
        return logits, self.encode(images)

    def encode(self, images: Tensor) -> Features:
        """The features of this network's own trunk, for images `[B, 3, H, W]`."""
        if self.trunk is None:
            raise InputError("the trunk is the classifier's own; its features come with its prediction")
        return features(self.trunk, (images - self.trunk_mean) / self.trunk_std, self.stages)

    def upsample(self, logits: Tensor) -> Tensor:
        """Mask logits `[B, 1, h, w]` to the mask `[B, 1, H, W]` at the classifier's input size, bilinearly."""
        mask = logits.float().sigmoid()
        return F.interpolate(mask, self.classifier.input_size, mode="bilinear", align_corners=False)

    def masks(
        self,
        scores: Tensor,
        areas: Tensor | None = None,
        allowed: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Masks `[B, A, H, W]` from what `decode` gave for areas `[B, A]`; `A` is 1 for a network that takes none.

        Args:
            allowed: `[B, 1, H, W]` in [0, 1], which pixels a mask may keep; None = all of them.
            size: height and width, for networks that take areas; None = the classifier's input size.
        """
        mask = self.upsample(scores)
        return mask if allowed is None else mask * allowed

    def train(self, mode: bool = True) -> MaskNetwork:
        """As `nn.Module.train`, but the trunk stays in eval mode: its BatchNorm statistics are the classifier's."""
        super().train(mode)
        if self.trunk is not None:
            self.trunk.eval()
        return self

    def scope(self, name: str) -> list[str]:
        """Names of the parameters that are adapted: `head` (last layer), `decoder` (all but the trunk) or `all`.

        Raises:
            InputError: unknown scope, or `all` where the trunk is the classifier's own.
        """
        if name not in SCOPES:
            raise InputError(f"scope={name!r} is unknown; allowed: {', '.join(SCOPES)}{suggest(name, SCOPES)}")
        if name == "all" and self.shares_trunk:
            raise InputError(
                "scope=all would change the explained classifier, whose trunk this explainer shares; use scope=decoder"
            )
        # Not by `requires_grad`: an explainer that its user froze is adapted in copies.
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
        """Explain images `[B, 3, H, W]` in [0, 1] in one forward pass of the network.

        `probability_kept` and `probability_removed` are computed when first read, by one pass of the classifier over
        the kept and the removed pixels.

        Args:
            targets: the classes asked about; None = predicted.
            fill: what stands where pixels are removed in the two masked images; of several the first.
            names: one a picture, for the result.
        """
        images = checked(self.classifier, images)
        begun = time.perf_counter()
        with evaluating(self):
            logits, found = self.predict_and_encode(images)
            indices = self.classifier.targets(targets, logits)
            scores = self.decode(found, indices)
            maps = self.upsample(scores)
        seconds = (time.perf_counter() - begun) / len(images)

        def ask(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
            known = self.nested and size is None
            return self.masks(scores if known else self.decode(found, indices, areas, size), areas, None, size)

        answers = ask if self.takes_areas else None
        return describe(self.classifier, images, maps, indices, logits, fill, names, self.method, 0, seconds, answers)


@contextmanager
def evaluating(network: MaskNetwork) -> Iterator[None]:
    """The network is in eval mode within, and afterwards in the mode that it was in, whatever happens."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def checked(classifier: Classifier, images: Tensor) -> Tensor:
    """A user's images for a mask network: masks are written at the classifier's input size, and meet images there.

    Raises:
        InputError: see `Classifier.images`; or there is no image.
    """
    images = classifier.images(images)
    if not len(images):
        raise InputError("there is no image: the batch is empty")
    return images


@torch.no_grad()
def describe(
    classifier: Classifier,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    logits: Tensor,
    fill: Fill | str,
    names: list[str] | None,
    method: str,
    steps: int,
    seconds: float,
    ask: Ask | None = None,
    max_batch: int = 64,
) -> Explanation:
    """An `Explanation` of maps `[B, 1, H, W]`, with the class's probability whole, kept and removed.

    Args:
        fill: what stands where pixels are removed; of several the first.
        ask: makes masks of any area; the explanation's mask is then that of `AREA`, else the map itself.
        max_batch: masked images of one pass of the classifier, at most.
    """
    shown = (fill if isinstance(fill, Fill) else Fill(fill)).first()
    probability = classifier.probabilities(logits).gather(1, targets[:, None])[:, 0]
    by_area: AreaMasks | None = None
    if ask is not None:
        background = shown(images, torch.Generator().manual_seed(0), shared=True)
        by_area = AreaMasks(classifier, images, background, targets, probability, ask, max_batch)
    mask = maps if by_area is None else by_area(AREA)
    masked = MaskedProbabilities(classifier, images, mask, shown, targets, max_batch)
    return Explanation(
        images=images,
        maps=maps,
        mask=mask,
        targets=targets,
        labels=[classifier.label(index) for index in targets.tolist()],
        probability=probability,
        probability_kept=masked.kept,
        probability_removed=masked.removed,
        method=method,
        steps=steps,
        seconds=seconds,
        names=names,
        fill=shown.choices[0],
        by_area=by_area,
    )


def trunk_shapes(classifier: Classifier, name: str) -> list[torch.Size]:
    """Shapes `[C, h, w]` of each stage and, last, of the final map of a trunk (see `MaskNetwork`); `none` has none.

    Draws no random numbers: the network's weights are the same whether its trunk was asked before or not.

    Raises:
        InputError: the trunk is unknown or keeps no feature maps.
    """
    if name == "none":
        return []
    if name == "shared":
        return classifier.feature_shapes()
    with torch.random.fork_rng(devices=[]):
        return feature_shapes(_own_trunk(classifier, name)[0], classifier.input_size)


def _own_trunk(classifier: Classifier, name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A trainable trunk without its classification head, and the normalisation `[1, 3, 1, 1]` that it expects."""
    if name == "copy":
        if not supports_features(classifier.model):
            raise InputError(
                f"explainer.trunk=copy: {classifier.name} has no forward_intermediates; "
                "choose a timm name, for instance explainer.trunk=resnet18"
            )
        trunk = copy.deepcopy(classifier.model)
        mean, std = classifier.normalisation
    else:
        if not timm.is_model(name):
            known = [*timm.list_models(), "shared", "copy", "none"]
            raise InputError(
                f"explainer.trunk={name!r} is neither shared, copy, none nor a timm model{suggest(name, known)}"
            )
        options: dict[str, Any] = {"num_classes": 0}
        try:
            trunk = timm.create_model(name, img_size=classifier.input_size, **options)
        except TypeError:  # convolutional models take any size
            trunk = timm.create_model(name, **options)
        config = resolve_model_data_config(trunk)
        mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        own, theirs = trunk.state_dict(), classifier.model.state_dict()
        agreeing = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
        trunk.load_state_dict(agreeing, strict=False)
    if hasattr(trunk, "reset_classifier"):
        trunk.reset_classifier(0)  # type: ignore[operator]
    trunk.requires_grad_(True)
    for key, parameter in trunk.named_parameters():
        if key.split(".")[0] in ("patch_embed", "pos_embed", "cls_token", "dist_token", "reg_token"):
            parameter.requires_grad_(False)  # the released LTX code freezes the embedding layers
    return trunk.eval(), mean.clone(), std.clone()
