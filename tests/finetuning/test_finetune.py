"""Per-image finetuning: a batch is its images, nothing else changes, and selection says so."""

from __future__ import annotations

import gc
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from ltx import Classifier, Fill, InputError, finetune
from ltx.classifier.feature_maps import Features
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import FRACTIONS
from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.settings import FinetuneConfig
from ltx.metrics.perturbation import curves
from ltx.objectives.area import Area
from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig


def small(name: str = "resnet18", **settings: object) -> MaskNetwork:
    torch.manual_seed(0)
    classifier = Classifier(name, weights="random", num_classes=5, input_size=64)
    return ExplainerConfig(**settings).build(classifier).eval()  # type: ignore[arg-type]


def pictures(count: int = 3) -> torch.Tensor:
    """Smooth random pictures: each a few blurred blobs, at 64 x 64."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)


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
    explainer, images = small(name, **settings), pictures()
    config = ObjectiveConfig(ranking=Ranking(weight=0.5, noise=0.1))
    options = {"steps": 3, "scope": scope, "objective": Objective(config), "fill": "random", "seed": 5}
    together = finetune(explainer, images, [0, 1, 2], **options).maps  # type: ignore[arg-type]
    for index in range(len(images)):
        alone = finetune(explainer, images[index : index + 1], [index], **options).maps  # type: ignore[arg-type]
        assert torch.allclose(alone, together[index : index + 1], atol=1e-4)
    chunked = finetune(explainer, images, [0, 1, 2], max_batch=2, **options).maps  # type: ignore[arg-type]
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
    explainer, images = without_kinks(small(name, **settings)), pictures(2)
    targets = torch.tensor([1, 3])

    def loss(scores: torch.Tensor, rows: slice, unmasked_logits: torch.Tensor) -> torch.Tensor:
        mask, part = explainer.upsample(scores), images[rows]
        background = Fill("black")(part)
        batch = MaskedBatch(explainer.classifier, part, background, targets[rows], unmasked_logits, scores, mask)
        return Objective()(batch).loss.sum()

    unmasked_logits, found = explainer.predict_and_encode(images)
    found = Features([stage.detach() for stage in found.stages], found.final.detach())
    copies = Copies(explainer, scope, 2, found, images, batched=batched)
    loss(copies.scores(targets), slice(None), unmasked_logits).backward()
    for index in range(2):
        rows = slice(index, index + 1)
        explainer.zero_grad()
        unmasked_logits, found = explainer.predict_and_encode(images[rows])
        loss(explainer.decode(found, targets[rows]), rows, unmasked_logits).backward()
        plain = dict(explainer.named_parameters())
        for key, stacked in copies.parameters.items():
            assert stacked.grad is not None
            expected = plain[key].grad
            assert expected is not None
            assert torch.allclose(stacked.grad[index], expected, atol=1e-4 * float(expected.abs().max()) + 1e-8), key


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_each_start_brings_its_own_trunk(scope: str):
    explainer, other = small(trunk="copy"), small(trunk="copy")
    with torch.no_grad():
        assert other.trunk is not None
        other.trunk.conv1.weight.neg_()  # type: ignore[union-attr, operator]
    images = pictures(2)
    found = finetune(explainer, images, [0, 1], steps=0, scope=scope, starts=[explainer, other])
    for index, start in enumerate((explainer, other)):
        alone = start.explain(images[index : index + 1], [index])
        assert torch.allclose(found.maps[index], alone.maps[0], atol=1e-5)
    assert not torch.allclose(found.maps[1:], explainer.explain(images[1:], [1]).maps, atol=1e-3)


def test_no_steps_is_the_forward_pass_and_the_explainer_is_left_alone():
    explainer, images = small(), pictures()
    before = {key: value.clone() for key, value in explainer.state_dict().items()}
    assert torch.allclose(finetune(explainer, images, steps=0).maps, explainer(images), atol=1e-5)
    finetune(explainer, images, steps=2)
    assert all(torch.equal(value, before[key]) for key, value in explainer.state_dict().items())
    assert all(parameter.grad is None for parameter in explainer.parameters())


def test_the_same_seed_gives_the_same_bytes():
    explainer, images = small(), pictures()
    first, second = (finetune(explainer, images, steps=2, fill="random", seed=3).maps for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, finetune(explainer, images, steps=2, fill="noise", seed=4).maps)


def test_steps_lower_the_loss():
    explainer, images = small(), pictures()
    before, after = (finetune(explainer, images, 0, steps=steps, lr=1e-3) for steps in (0, 15))

    def loss(found) -> torch.Tensor:
        kept, removed = found.probability_kept, found.probability_removed
        return -kept.log() - (1 - removed).log() + 4 * found.maps.mean((1, 2, 3))

    assert bool((loss(after) < loss(before)).all())


@pytest.mark.parametrize("rule", ["positive", "negative", "deletion", "insertion"])
def test_selection_keeps_the_best_step_and_says_so(rule: str):
    explainer, images = small(), pictures(2)

    def scores(masks: torch.Tensor) -> torch.Tensor:
        highest = rule in ("positive", "deletion")
        order = "highest" if highest else "lowest"
        targets = torch.zeros(2, dtype=torch.long)
        found = curves(explainer.classifier, images, masks, targets, FRACTIONS, torch.zeros_like(images), (order,))
        heights = found[order].correct.float() if rule in ("positive", "negative") else found[order].probability
        area = torch.trapezoid(heights, dx=0.1, dim=1)
        return -area if highest else area

    chosen = finetune(explainer, images, 0, steps=4, lr=1e-3, select_by=rule)
    each = torch.stack([scores(finetune(explainer, images, 0, steps=s, lr=1e-3).maps) for s in range(1, 5)])
    assert chosen.selected_by == rule
    assert torch.allclose(scores(chosen.maps), each.max(0).values, atol=1e-4)


def test_threads_finetune_the_same_explainer_side_by_side():
    explainer, images = small(), pictures(4)
    before = {name: value.clone() for name, value in explainer.state_dict().items()}
    expected = [finetune(explainer, image[None], 0, steps=4).maps for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: finetune(explainer, image[None], 0, steps=4).maps, images))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in explainer.state_dict().items())


def test_one_pass_takes_the_fills_that_finetuning_takes():
    explainer, images = small(), pictures(2)
    found = explainer.explain(images, 0, fill=["blur", "black"])
    assert found.fill == "blur"
    assert torch.equal(found.probability_kept, explainer.explain(images, 0, fill="blur").probability_kept)


def test_a_users_hooks_see_the_passes_of_finetuning():
    explainer, seen = small(), []
    for module in explainer.modules():
        module.register_forward_hook(lambda *_: seen.append(1))
    explainer.cached = explainer(pictures(1), torch.tensor([0]))  # no leaf of a graph: what a hook may have kept
    seen.clear()
    finetune(explainer, pictures(1), 0, steps=2)
    assert seen


def test_nothing_is_selected_without_a_step():
    assert finetune(small(), pictures(1), 0, steps=0, select_by="positive").selected_by is None


@pytest.mark.parametrize(
    ("options", "text"),
    [({"steps": -1}, "steps=-1; give 0 or more"), ({"lr": math.nan}, "lr=nan"), ({"seed": 2**64}, "seed=1.*give")],
)
def test_impossible_settings_are_refused_before_any_work(options: dict[str, Any], text: str):
    with pytest.raises(InputError, match=text):
        FinetuneConfig(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"select_by": "postive"}, "did you mean positive"),
        ({"steps": -1}, "steps=-1"),
        ({"targets": [0, 1]}, "2 targets for 1 images"),
        ({"scope": "all"}, "shares"),
        ({"lr": math.nan}, "lr=nan; give a positive"),
        ({"lr": math.inf}, "lr=inf; give a positive"),
        ({"lr": 1e30, "steps": 1}, "not finite after 1 steps; lower lr"),
        ({"seed": 10**20}, "seed=1"),
        ({"allowed": torch.full((1, 1, 64, 64), 5.0)}, "allowed has values from 5 to 5"),
        ({"allowed": torch.ones(1, 1, 8, 8)}, r"allowed has shape \(1, 1, 8, 8\); give \(1, 1, 64, 64\)"),
        ({"starts": []}, "starts: 0 networks for 1 images"),
    ],
)
def test_bad_options(options: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        finetune(small(), pictures(1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_adapts_wherever_it_is_called(mode: Any):
    explainer, images = small(), pictures(2)
    expected = finetune(explainer, images, 0, steps=2).maps
    with mode():
        assert torch.equal(finetune(explainer, images.clone(), 0, steps=2).maps, expected)


def test_an_error_leaves_the_explainer_in_its_mode():
    explainer = small().train()
    for way in (finetune, type(explainer).explain):
        with pytest.raises(InputError, match="target='nosuch'"):
            way(explainer, pictures(1), "nosuch")
        assert explainer.training


def test_no_image_is_an_error():
    explainer = small()
    for way in (finetune, type(explainer).explain):
        with pytest.raises(InputError, match="the batch is empty"):
            way(explainer, pictures(1)[:0])


def test_max_batch_bounds_every_pass(monkeypatch: pytest.MonkeyPatch):
    explainer, rows = small(), []
    explainer.classifier.model.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    assert finetune(explainer, pictures(3), 0, steps=0, max_batch=1).probability_kept is not None
    assert set(rows) == {1}


def test_images_of_another_size_are_refused():
    explainer = small()
    for way in (finetune, type(explainer).explain):
        with pytest.raises(InputError, match="images of 48x64 pixels; resnet18 takes 64x64"):
            way(explainer, torch.rand(1, 3, 48, 64))


def test_what_is_asked_is_checked_before_any_work(monkeypatch: pytest.MonkeyPatch):
    explainer, images = small(), pictures()
    monkeypatch.setattr(Copies, "__init__", lambda *_: pytest.fail("an image was adapted"))
    with pytest.raises(InputError, match="target='tabbby' is not a class"):
        finetune(explainer, images, ["0", "predicted", "tabbby"], max_batch=1)
    with pytest.raises(InputError, match=r"target=\[1\] is no class"):
        finetune(explainer, images, [[1], [2], [3]])  # type: ignore[list-item]
    with pytest.raises(InputError, match="2 names for 3 images"):
        finetune(explainer, images, names=["a", "b"], max_batch=1)


def test_a_frozen_explainer_is_adapted_in_copies():
    explainer, images = small(), pictures(1)
    adapted = finetune(explainer, images, 0, steps=2).maps
    explainer.requires_grad_(False)
    assert torch.equal(finetune(explainer, images, 0, steps=2).maps, adapted)


def test_of_several_fills_the_first_is_reported():
    explainer, images = small(), pictures(2)
    for fill, first in ((["black", "blur"], "black"), (["blur", "black"], "blur"), ("random", "black")):
        several = finetune(explainer, images, 0, steps=0, fill=fill)  # type: ignore[arg-type]
        one = finetune(explainer, images, 0, steps=0, fill=first)
        assert several.fill == one.fill == first
        assert several.probability_kept is not None
        assert one.probability_kept is not None
        assert torch.equal(several.probability_kept, one.probability_kept)


@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_allowed_pixels_of_any_type_and_no_others(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    explainer, images = small(), pictures(2)
    half = torch.zeros(2, 1, 64, 64)
    half[..., :32] = 1
    shown: list[torch.Tensor] = []
    masks = Ranking.masks

    def seen(self: Ranking, batch: MaskedBatch) -> dict[str, torch.Tensor]:
        found = masks(self, batch)
        shown.extend(mask for name, mask in found.items() if "kept" in name)
        return found

    monkeypatch.setattr(Ranking, "masks", seen)
    objective = Objective(ObjectiveConfig(ranking=Ranking(weight=1.0, low=0.2, high=0.4)))
    found = finetune(explainer, images, 0, steps=2, objective=objective, allowed=half.to(kind))
    for mask in (found.maps, *shown):
        assert float(mask[..., 32:].detach().abs().max()) == 0
    for mask in shown:  # the area is that of the visible image, but for the border that enlarging smooths
        assert 0.15 < float(mask.detach().mean()) < 0.45


def test_copies_do_not_pile_up_over_the_parts(monkeypatch: pytest.MonkeyPatch):
    made: list[weakref.ref[Copies]] = []
    alive: list[int] = []
    begin = Copies.__init__

    def counted(self: Copies, *args: Any) -> None:
        gc.collect()
        alive.append(sum(copies() is not None for copies in made))
        made.append(weakref.ref(self))
        begin(self, *args)

    monkeypatch.setattr(Copies, "__init__", counted)
    finetune(small(), pictures(4), steps=1, max_batch=1)
    assert max(alive) <= 1, "the one that was made last"


def test_the_default_objective_is_the_one_of_the_training():
    explainer, images = small(), pictures(1)
    explainer.made_with = {"objective": {"area": {"weight": 30.0}, "remove": {"weight": 0.0}}}
    inherited = finetune(explainer, images, 0, steps=4, lr=1e-3).maps
    config = ObjectiveConfig(remove=Remove(weight=0.0), area=Area(weight=30.0))
    assert torch.equal(inherited, finetune(explainer, images, 0, steps=4, lr=1e-3, objective=Objective(config)).maps)
    explainer.made_with = {}
    assert not torch.equal(inherited, finetune(explainer, images, 0, steps=4, lr=1e-3).maps)


@pytest.mark.parametrize("term", ["teacher", "elsewhere"])
def test_an_objective_of_a_term_of_training_alone_is_refused(term: str):
    explainer = small()
    explainer.made_with = {"objective": {name: {"weight": 0.0} for name in ("keep", "remove", "area", "smoothness")}}
    explainer.made_with["objective"][term] = {"weight": 1.0}
    with pytest.raises(InputError, match="but elsewhere, teacher, which finetuning lacks"):
        finetune(explainer, pictures(1), 0, steps=1)
    assert len(finetune(explainer, pictures(1), 0, steps=0).maps) == 1
