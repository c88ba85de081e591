"""Per-instance finetuning: each image adapts its own copy of the explainer's parameters, many images at once."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ltx.classifier import Targets
from ltx.errors import InputError, suggest
from ltx.explainers.mask_network import MaskNetwork, describe
from ltx.explanation import Explanation
from ltx.fill import Fill
from ltx.metrics.perturbation import Prediction, curves, read_logits
from ltx.objectives import MaskedBatch, Objective
from ltx.trunk import Features

SELECTIONS = ("positive", "negative", "deletion", "insertion")
FRACTIONS = tuple(step / 10 for step in range(10))


def finetune(
    explainer: MaskNetwork,
    images: Tensor,
    targets: Targets = None,
    steps: int = 25,
    scope: str = "decoder",
    lr: float = 3e-4,
    objective: Objective | None = None,
    fill: Fill | str = "black",
    select_by: str | None = None,
    seed: int = 0,
    max_batch: int = 16,
    names: list[str] | None = None,
) -> Explanation:
    """Adapt an explainer to each of many images, and explain them; the explainer itself stays as it was.

    Every image owns a copy of the adapted parameters, stacked along a first axis and trained together: AdamW works
    element by element, the losses are summed, and random draws are shared by all images, so an image's result
    does not depend on its neighbours. The answer is the last step's mask.

    A step takes one pass of the decoder and one of the classifier over all composites, both forwards and backwards. The
    trunk's features are computed once where the trunk is not adapted.

    Args:
        explainer: a trained mask network; `explainer.classifier` is explained.
        images: `[B, 3, H, W]` in [0, 1], at the classifier's input size.
        targets: the classes asked about; None = predicted.
        steps: optimiser steps for each image; 0 = the plain forward pass.
        scope: which parameters are adapted: `head`, `decoder`, or `all` (own trunk included).
        lr: learning rate of AdamW.
        objective: what a good mask is; None = the default objective.
        fill: what stands where pixels are removed, while adapting and in the reported probabilities.
        select_by: None, or the papers' rule: after every step keep the mask that is best by the image's own `positive`,
            `negative`, `deletion` or `insertion` AUC (`ltx` protocol, black). Such a map is chosen by the metric
            it may be reported with; `Explanation.selected_by` says so. Costs 9 passes of the classifier a step.
        seed: of the draws of fills and terms.
        max_batch: images adapted at once; bounds memory and changes no result.
        names: one a picture, for the result.

    Raises:
        InputError: unknown scope or rule, negative steps, or a loss that is not finite.
    """
    if steps < 0 or max_batch < 1:
        raise InputError(f"steps={steps}, max_batch={max_batch}; need steps >= 0 and max_batch >= 1")
    if select_by is not None and select_by not in SELECTIONS:
        raise InputError(
            f"select_by={select_by!r} is unknown; allowed: {', '.join(SELECTIONS)}{suggest(select_by, SELECTIONS)}"
        )
    classifier, fill = explainer.classifier, Fill(fill) if isinstance(fill, str) else fill
    objective = Objective() if objective is None else objective
    was_training = explainer.training
    explainer.eval()
    begun = time.perf_counter()
    masks, chosen, whole = [], [], []
    for start in range(0, len(images), max_batch):
        part = images[start : start + max_batch]
        asked = targets if targets is None or isinstance(targets, (int, str)) else targets[start : start + max_batch]
        with torch.no_grad():
            clean, found = explainer.predict_and_encode(part)
        indices = classifier.targets(asked, clean)
        copies = Copies(explainer, scope, len(part), found, part)
        mask = _adapt(copies, part, indices, clean, objective, fill, steps, lr, select_by, seed)
        masks.append(mask)
        chosen.append(indices)
        whole.append(clean)
    seconds = (time.perf_counter() - begun) / max(1, len(images))
    explainer.train(was_training)
    explanation = describe(
        classifier, images, torch.cat(masks), torch.cat(chosen), torch.cat(whole), fill, names, "ltx", steps, seconds
    )
    explanation.selected_by = select_by
    return explanation


class Copies:
    """One copy of an explainer's adapted parameters for each image, stacked, and the pass that uses them.

    Args:
        explainer: the network that is copied; not changed.
        scope: see `MaskNetwork.scope`.
        count: number of images.
        found: the images' features, read where the trunk is not adapted.
        images: `[B, 3, H, W]`, read where it is.
    """

    def __init__(self, explainer: MaskNetwork, scope: str, count: int, found: Features, images: Tensor) -> None:
        self.explainer = explainer
        self.found = found
        self.images = images
        self.adapts_trunk = scope == "all"
        adapted = set(explainer.scope(scope))
        every = {**dict(explainer.named_parameters()), **dict(explainer.named_buffers())}
        self.fixed = {name: value.detach() for name, value in every.items() if name not in adapted}
        self.parameters = {
            name: value.detach().expand(count, *value.shape).clone().requires_grad_()
            for name, value in every.items()
            if name in adapted
        }

    def scores(self, targets: Tensor) -> Tensor:
        """Mask logits `[B, 1, h, w]`, each image by its own copy, for classes `[B]`."""
        network: nn.Module = _Decode(self.explainer, self.adapts_trunk)
        fixed = {f"explainer.{name}": value for name, value in self.fixed.items()}

        def one(parameters: dict[str, Tensor], source: Features | Tensor, target: Tensor) -> Tensor:
            own = {f"explainer.{name}": value for name, value in parameters.items()}
            single = (
                Features([s[None] for s in source.stages], source.final[None])
                if isinstance(source, Features)
                else source[None]
            )
            return functional_call(network, {**fixed, **own}, (single, target[None])).squeeze(0)

        source = self.images if self.adapts_trunk else self.found
        # Fused attention has no batching rule, and would be looped over the images.
        with sdpa_kernel(SDPBackend.MATH), _ConvolutionAsProduct():
            return vmap(one)(self.parameters, source, targets)


class _ConvolutionAsProduct(TorchFunctionMode):
    """Computes dense 2-D convolutions as matrix products of the shifted input.

    With weights of its own for each image, a convolution becomes one with as many groups as images, which is several
    times slower than these batched products (measured by `python -m ltx.bench finetune`).
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.conv2d or function is torch.conv2d:
            return self._convolve(function, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _convolve(
        function: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        rows, columns = weight.shape[-2:]
        down, across = (padding, padding) if isinstance(padding, (int, str)) else padding
        plain = {*_pair(stride), *_pair(dilation), groups} == {1}
        if not plain or isinstance(down, str):
            return function(x, weight, bias, stride, padding, dilation, groups)
        x = torch.nn.functional.pad(x, (across, across, down, down))
        height, width = x.shape[-2] - rows + 1, x.shape[-1] - columns + 1
        shifted = [x[..., i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
        product = weight.flatten(1) @ torch.stack(shifted, 2).flatten(1, 2).flatten(2)
        y = product.unflatten(2, (height, width))
        return y if bias is None else y + bias[:, None, None]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Decode(nn.Module):
    """Gives `functional_call` a forward that decodes."""

    def __init__(self, explainer: MaskNetwork, encodes: bool) -> None:
        super().__init__()
        self.explainer = explainer
        self.encodes = encodes

    def forward(self, source: Features | Tensor, targets: Tensor) -> Tensor:
        found = self.explainer.encode(source) if isinstance(source, Tensor) else source
        return self.explainer.decode(found, targets)


def _adapt(
    copies: Copies,
    images: Tensor,
    targets: Tensor,
    clean: Tensor,
    objective: Objective,
    fill: Fill,
    steps: int,
    lr: float,
    select_by: str | None,
    seed: int,
) -> Tensor:
    """Masks `[B, 1, H, W]` after `steps` steps, or the best of them by `select_by`."""
    explainer = copies.explainer
    adamw = torch.optim.AdamW(list(copies.parameters.values()), lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    select = Selection(select_by, explainer, images, targets, clean) if select_by is not None else None
    for step in range(steps):
        scores = copies.scores(targets).float()
        if select is not None and step > 0:
            select(explainer.upsample(scores.detach()))
            if select.finished:
                return select.masks
        judged = MaskedBatch(
            classifier=explainer.classifier,
            images=images,
            background=fill(images, generator, shared=True),
            targets=targets,
            clean=clean,
            scores=scores,
            mask=explainer.upsample(scores),
            generator=generator,
            shared_draws=True,
        )
        loss = objective(judged, progress=1.0).loss
        if not loss.detach().isfinite().all():
            raise InputError(f"finetuning: the loss is not finite at step {step}; lower lr={lr}")
        adamw.zero_grad()
        loss.sum().backward()
        adamw.step()
    with torch.no_grad():
        mask = explainer.upsample(copies.scores(targets))
    if select is None:
        return mask
    select(mask)
    return select.masks


class Selection:
    """The released rule: of the masks that finetuning passes through, keep each image's best by one of its own curves.

    An image is done, and its mask fixed, at a positive AUC below 6 or a negative AUC above 89 (`ltx` protocol).
    """

    def __init__(self, rule: str, explainer: MaskNetwork, images: Tensor, targets: Tensor, clean: Tensor) -> None:
        self.rule, self.explainer, self.images, self.targets = rule, explainer, images, targets
        self.clean: Prediction = read_logits(explainer.classifier, clean, targets)
        self.highest_first = rule in ("positive", "deletion")
        self.best = torch.full((len(images),), float("inf"), device=images.device)
        self.done = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.masks = torch.zeros_like(images[:, :1])

    def __call__(self, masks: Tensor) -> None:
        """Consider masks `[B, 1, H, W]`."""
        order = "highest" if self.highest_first else "lowest"
        found = curves(
            self.explainer.classifier,
            self.images,
            masks,
            self.targets,
            FRACTIONS,
            torch.zeros_like(self.images),
            orders=(order,),
            clean=self.clean,
        )[order]
        heights = found.correct.float() if self.rule in ("positive", "negative") else found.probability
        area = 100 * torch.trapezoid(heights, dx=0.1, dim=1)
        value = area if self.highest_first else -area
        better = (value < self.best) & ~self.done
        self.masks = torch.where(better.view(-1, 1, 1, 1), masks, self.masks)
        self.best = torch.where(better, value, self.best)
        self.done |= (self.rule == "positive") & (self.best < 6) | (self.rule == "negative") & (self.best < -89)

    @property
    def finished(self) -> bool:
        return bool(self.done.all())
