"""Copies of parameters: a batch equals its images, and gradients equal those of the network itself."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from ltx import Fill, finetune
from ltx.explainers.mask_network import MaskNetwork
from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.objectives.ranking import Ranking
from ltx.objectives.settings import ObjectiveConfig
from ltx.runtime.private_api import tree_map
from tests.support.small_explainers import small_explainer, smooth_images


def without_kinks(explainer: MaskNetwork) -> MaskNetwork:
    """The explainer and its classifier with softplus for ReLU and ReLU6.

    The order in which a batch is summed rounds a value across a kink now and then, which turns a path of the gradient
    on or off: up to 8e-4 of a parameter's largest gradient with one thread, 5e-6 with two.
    """
    for module in list(explainer.modules()):
        for key, child in module.named_children():
            if isinstance(child, torch.nn.ReLU | torch.nn.ReLU6):
                setattr(module, key, torch.nn.Softplus())
    return explainer


CASES = [
    ("resnet18", {}, "decoder"),
    ("resnet18", {}, "head"),
    ("resnet18", {"trunk": "copy", "variant": "released"}, "all"),
    ("vit_tiny_patch16_224", {}, "decoder"),
    ("vit_tiny_patch16_224", {"trunk": "copy", "variant": "released"}, "all"),
]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("name", "settings", "scope"), CASES)
def test_many_at_once_equal_one_by_one(name: str, settings: dict[str, object], scope: str):
    explainer, images = small_explainer(name, **settings), smooth_images()
    config = ObjectiveConfig(ranking=Ranking(weight=0.5, noise=0.1))
    options = FinetuneSettings(scope=scope, objective=Objective(config), fill="random", seed=5)
    together = finetune(explainer, images, [0, 1, 2], 3, options).maps
    for index in range(len(images)):
        alone = finetune(explainer, images[index : index + 1], [index], 3, options).maps
        assert torch.allclose(alone, together[index : index + 1], atol=1e-4)
    chunked = finetune(explainer, images, [0, 1, 2], 3, replace(options, max_batch=2)).maps
    assert torch.allclose(chunked, together, atol=1e-4)
    assert float((together - explainer(images, torch.arange(3))).detach().abs().max()) > 0.02, (
        "the steps must move the masks"
    )


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("name", "settings", "scope"),
    [
        ("resnet18", {}, "decoder"),
        ("vit_tiny_patch16_224", {}, "decoder"),
        ("tf_efficientnet_lite0", {"trunk": "copy", "variant": "released"}, "all"),
    ],
)
def test_the_gradient_is_that_of_an_ordinary_network(name: str, settings: dict[str, object], scope: str, batched: bool):
    """Stacked parameters, in one pass or in turn, against `backward` through the network itself, image by image."""
    explainer, images = without_kinks(small_explainer(name, **settings)).with_detail(), smooth_images(2)
    for parameter in explainer.parameters():
        if not parameter.any():  # of layers that start at zero, which would let no gradient through
            torch.nn.init.normal_(parameter, std=0.1)
    targets = torch.tensor([1, 3])

    def loss(scores: torch.Tensor, rows: slice, unmasked_logits: torch.Tensor) -> torch.Tensor:
        mask, part = explainer.upsample(scores), images[rows]
        background = Fill("black")(part)
        batch = MaskedBatch(explainer.classifier, part, background, targets[rows], unmasked_logits, scores, mask)
        return Objective()(batch).loss.sum()

    unmasked_logits, found = explainer.predict_and_encode(images)
    found = tree_map(torch.Tensor.detach, found)
    copies = Copies(explainer, scope, 2, found, images, batched=batched)
    loss(copies.scores(targets), slice(None), unmasked_logits).backward()
    for index in range(2):
        rows = slice(index, index + 1)
        explainer.zero_grad()
        unmasked_logits, found = explainer.predict_and_encode(images[rows])
        loss(explainer.decode(found, targets[rows]), rows, unmasked_logits).backward()
        plain = dict(explainer.named_parameters())
        for key, adapted in copies.parameters[0 if batched else index].items():
            assert adapted.grad is not None
            found_gradient = adapted.grad[index] if batched else adapted.grad
            expected = plain[key].grad
            assert expected is not None
            assert torch.allclose(found_gradient, expected, atol=1e-4 * float(expected.abs().max()) + 1e-8), key


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_each_start_has_its_own_trunk(scope: str):
    explainer, other = small_explainer(trunk="copy"), small_explainer(trunk="copy")
    with torch.no_grad():
        assert other.trunk is not None
        other.trunk.conv1.weight.neg_()  # type: ignore[union-attr, operator]
    images = smooth_images(2)
    found = finetune(
        explainer, images, [0, 1], steps=0, starts=[explainer, other], settings=FinetuneSettings(scope=scope)
    )
    for index, start in enumerate((explainer, other)):
        alone = start.explain(images[index : index + 1], [index])
        assert torch.allclose(found.maps[index], alone.maps[0], atol=1e-5)
    assert not torch.allclose(found.maps[1:], explainer.explain(images[1:], [1]).maps, atol=1e-3)


def test_threads_finetune_the_same_explainer_concurrently():
    explainer, images = small_explainer(), smooth_images(4)
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    expected = [finetune(explainer, image[None], 0, steps=4).maps for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: finetune(explainer, image[None], 0, steps=4).maps, images))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in explainer.state_dict().items())


def test_hooks_of_the_user_run_during_finetuning():
    explainer, seen = small_explainer(), []
    for module in explainer.modules():
        module.register_forward_hook(lambda *_: seen.append(1))
    explainer.cached = explainer(smooth_images(1), torch.tensor([0]))  # no leaf of a graph: what a hook may have kept
    seen.clear()
    finetune(explainer, smooth_images(1), 0, steps=2)
    assert seen


def test_copies_are_released_after_each_chunk(monkeypatch: pytest.MonkeyPatch):
    made: list[weakref.ref[Copies]] = []
    alive: list[int] = []
    begin = Copies.__init__

    def counted(self: Copies, *args: Any) -> None:
        gc.collect()
        alive.append(sum(copies() is not None for copies in made))
        made.append(weakref.ref(self))
        begin(self, *args)

    monkeypatch.setattr(Copies, "__init__", counted)
    finetune(small_explainer(), smooth_images(4), steps=1, settings=FinetuneSettings(max_batch=1))
    assert max(alive) <= 1, "the one that was made last"


def test_a_frozen_explainer_is_adapted_in_copies():
    explainer, images = small_explainer(), smooth_images(1)
    adapted = finetune(explainer, images, 0, steps=2).maps
    explainer.requires_grad_(False)
    assert torch.equal(finetune(explainer, images, 0, steps=2).maps, adapted)
