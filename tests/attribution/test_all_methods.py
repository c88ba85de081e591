"""What holds for every method: batch = loop, chunk = whole, nothing left behind."""

import pytest
import torch
from torch import nn

from ltx import Classifier, InputError
from ltx.attribution.attention import unfused
from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import named_layers
from ltx.attribution.partial_forward import record
from ltx.attribution.registry import METHODS
from ltx.attribution.support import check_method, supported_methods
from tests.support.toy_models import Shortcuts, seeded, vit

QUICK = {
    "iia": {"steps": 2},
    "iia2": {"steps": 3},
    "iia3": {"steps": 2},
    "dix2": {"steps": 3},
    "dix3": {"steps": 3},
    "integrated_gradients": {"steps": 5},
    "gradient_shap": {"samples": 5},
    "occlusion": {"window": 8, "stride": 4},
    "rise": {"masks": 20, "cells": 4},
    "extremal_perturbation": {"steps": 3, "areas": (0.1, 0.5)},
    "inr": {"steps": 2, "areas": 2, "lr": 2e-5},  # sharp borders multiply what rounding does to the scores
}
TOKENS, MAPS = list(METHODS), [name for name, method in METHODS.items() if method.needs != "attention"]
CASES = [("transformer", method) for method in TOKENS] + [("cnn", method) for method in MAPS]


@pytest.fixture
def case(request, images, wide_images):
    name, method = request.param
    return request.getfixturevalue(name), method, images if name == "cnn" else wide_images


def state(classifier: Classifier) -> list[object]:
    """Everything that a method may have touched on the live modules."""
    found: list[object] = []
    for module in classifier.model.modules():
        found += [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
        found += ["forward" in module.__dict__, getattr(module, "fused_attn", None), getattr(module, "inplace", None)]
    return [*found, *(p.requires_grad for p in classifier.model.parameters())]


@pytest.mark.parametrize("case", CASES, indirect=True, ids=[f"{m}-{c}" for c, m in CASES])
def test_batch_equals_loop_and_chunk_equals_whole(case):
    classifier, method, images = case
    before, quick = state(classifier), QUICK.get(method, {})
    whole = attribute(method, classifier, images, [1, 4, 0], **quick)
    assert whole.shape == (3, 1, *images.shape[-2:])
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    assert whole.std() > 0
    scale = whole.abs().max()
    for max_batch in (1, 2, 7):
        chunked = attribute(method, classifier, images, [1, 4, 0], max_batch=max_batch, **quick)
        assert (chunked - whole).abs().max() < 2e-4 * scale
    loop = torch.cat([attribute(method, classifier, images[i : i + 1], t, **quick) for i, t in enumerate([1, 4, 0])])
    assert (loop - whole).abs().max() < 2e-4 * scale
    assert state(classifier) == before


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradcam", {"layer": "short.1"}),
        ("iia2", {"layers": "short.1", "steps": 3}),
        ("iia2", {"layers": ["short.1"], "variant": "released", "steps": 3}),
        ("iia3", {"layers": ["short.0", "short.2"], "steps": 2}),
        ("dix3", {"layers": ["short.0", "short.1", "short.2"], "steps": 3}),
    ],
)
def test_a_cut_inside_a_block_that_adds_in_place_is_not_written_into(images, method, options):
    classifier = Classifier(seeded(Shortcuts()), input_size=16)
    whole = attribute(method, classifier, images, [1, 4, 0], **options)
    for max_batch in (1, 2, 7):
        chunked = attribute(method, classifier, images, [1, 4, 0], max_batch=max_batch, **options)
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("case", CASES, indirect=True, ids=[f"{m}-{c}" for c, m in CASES])
def test_no_target_means_the_predicted_one(case):
    classifier, method, images = case
    quick = QUICK.get(method, {})
    predicted = classifier(images).argmax(1)
    none = attribute(method, classifier, images, **quick)
    torch.testing.assert_close(none, attribute(method, classifier, images, predicted, **quick))
    torch.testing.assert_close(none, attribute(method, classifier, images, ["predicted"] * 3, **quick))


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("case", CASES, indirect=True, ids=[f"{m}-{c}" for c, m in CASES])
def test_nothing_is_left_behind_by_an_exception(case, after):
    classifier, method, images = case
    before, model, calls = state(classifier), classifier.model, iter(range(1000))

    class StopHereError(RuntimeError):
        pass

    def boom(*_: object) -> None:
        if next(calls) == after:
            raise StopHereError

    supported_methods(classifier)
    handle = (model.norm if hasattr(model, "norm") else model.hidden).register_forward_hook(boom)
    # One image at a time: a path method gets as far as a replay of the layers after its cut.
    with pytest.raises(StopHereError):
        attribute(method, classifier, images, 1, max_batch=1, **QUICK.get(method, {}))
    handle.remove()
    assert state(classifier) == before


def test_fused_attention_is_switched_on_live_modules_and_back(transformer):
    switches = [block.attn for block in transformer.model.blocks]
    switches[1].fused_attn = False  # a user's own choice survives
    switches[0].fused_attn = switches[2].fused_attn = True
    seen = []

    def leave_early() -> None:
        with unfused(transformer.model):
            seen.extend(attn.fused_attn for attn in switches)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_early()
    assert seen == [False] * 3
    assert [attn.fused_attn for attn in switches] == [True, False, True]


def test_only_the_layers_after_the_cut_run_again(transformer, wide_images):
    """3 x 3 points: the first blocks run once for each point of the input path, the head once for every pair."""
    rows = {"first": 0, "head": 0}

    def count(name):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            rows[name] += len(output)

        return hook

    handles = [
        transformer.model.blocks[0].mlp.register_forward_hook(count("first")),
        transformer.model.head.register_forward_hook(count("head")),
    ]
    supported_methods(transformer)
    rows.update(first=0, head=0)
    attribute("iia2", transformer, wide_images, 1, variant="released", steps=2)
    for handle in handles:
        handle.remove()
    assert rows == {"first": 3 * 3, "head": 3 * 9}


def replayed(model: nn.Module, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What the model makes of `x` with `value` at its cut, as many times as it is repeated there."""
    repeats = len(value) // len(x)
    with torch.no_grad(), record(model, model.cut, lambda: model(x)).replaying(value, repeats):
        return model(x.repeat(repeats, 1))


def test_a_cut_replays_modules_that_are_called_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.cut = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = self.same(x)
            return self.same(self.cut(skip)) + skip

    torch.manual_seed(0)
    model, x = Twice(), torch.rand(2, 4)
    value = torch.rand(6, 4)
    found = replayed(model, x, value)
    with torch.no_grad():
        expected = model.same(value) + model.same(x).repeat(3, 1)
    torch.testing.assert_close(found, expected)
    assert "forward" not in model.same.__dict__


def test_windowed_attention_is_refused_with_what_works():
    import timm

    model = timm.create_model("swinv2_tiny_window8_256", num_classes=3)
    classifier = Classifier(model, input_size=256)
    with pytest.raises(InputError, match=r"methods that work on it: iia, .*gradcam.*rise") as error:
        attribute("gae", classifier, torch.rand(1, 3, 256, 256))
    assert "\n" not in str(error.value)


def test_a_table_that_saw_no_image_is_not_repeated():
    """As of positions, `[2h - 1, …]`: its rows are not those of images, even where a cut is replayed many times."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first, self.cut = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = self.table(torch.arange(5.0)[:, None])
            return self.cut(self.first(x)) + bias.sum(0) + bias[len(bias) - 1]

    torch.manual_seed(0)
    model, x = Biased(), torch.rand(2, 4)
    value = torch.rand(6, 4)
    found = replayed(model, x, value)
    with torch.no_grad():
        bias = model.table(torch.arange(5.0)[:, None])
    torch.testing.assert_close(found, value + bias.sum(0) + bias[4])


@pytest.mark.parametrize("case", CASES, indirect=True, ids=[f"{m}-{c}" for c, m in CASES])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_method_works_wherever_it_is_called(case, mode):
    classifier, method, images = case
    expected = attribute(method, classifier, images, 1, **QUICK.get(method, {}))
    with mode():
        found = attribute(method, classifier, images.clone(), 1, **QUICK.get(method, {}))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["iia2", "iia3", "dix2", "gae", "gradcam"])
def test_checkpointed_activations_change_no_map(method):
    classifier = Classifier("vit_tiny_patch16_224", weights="random", num_classes=3, input_size=48)
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = attribute(method, classifier, images, 1, **QUICK.get(method, {}))
    classifier.checkpoint_activations()
    torch.testing.assert_close(attribute(method, classifier, images, 1, **QUICK.get(method, {})), expected)
    assert classifier.model.grad_checkpointing


def test_a_users_own_forward_stays(transformer, wide_images):
    module = transformer.model.blocks[-1].mlp
    own = module.forward
    module.forward = halved = lambda x: own(x) / 2
    before = transformer(wide_images)
    attribute("iia2", transformer, wide_images, 1, steps=2)
    assert module.__dict__["forward"] is halved
    assert torch.equal(transformer(wide_images), before)


def test_options_at_fault_are_told_from_methods(cnn):
    with pytest.raises(InputError, match="method=gradcam: layer='foo' is not a module") as error:
        check_method("gradcam", cnn, {"layer": "foo"})
    assert "methods that work" not in str(error.value)


def test_an_unknown_method_or_shape_is_named(cnn, images):
    with pytest.raises(InputError, match=r"'gradcan' is unknown; did you mean gradcam"):
        attribute("gradcan", cnn, images)
    with pytest.raises(InputError, match=r"shape \(3, 16, 16\)"):
        attribute("gradcam", cnn, images[0])
    with pytest.raises(InputError, match="target=9"):
        attribute("gradcam", cnn, images, 9)
    assert attribute("gradcam", cnn, images[:0]).shape == (0, 1, 16, 16)
    assert named_layers(cnn, ["middle"])[0].grid == (4, 4)


def test_numbers_that_cannot_be_are_named(cnn, images):
    with pytest.raises(InputError, match="steps=0; give at least one node"):
        attribute("integrated_gradients", cnn, images, steps=0)
    with pytest.raises(InputError, match=r"lr=-1\.0; give a positive learning rate"):
        attribute("inr", cnn, images, lr=-1.0, steps=1)


def test_bfloat16_forwards_give_float32_maps(images, wide_images):
    classifier = Classifier(vit(), input_size=(16, 24), precision="bf16")
    exact = Classifier(vit(), input_size=(16, 24))
    for method in ("iia2", "gae", "dix2"):
        found, expected = (attribute(method, c, wide_images, 1, **QUICK.get(method, {})) for c in (classifier, exact))
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 0.2 * expected.max()
