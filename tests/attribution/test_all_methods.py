"""Properties of every method: a batch equals a loop, chunks equal the whole, hooks are removed."""

import numpy as np
import pytest
import torch
from torch import nn

from ltx import Classifier, InputError
from ltx.attribution.attribute import ConstantMapWarning, attribute
from ltx.attribution.feature_layers import named_layers
from ltx.attribution.registry import METHODS
from ltx.attribution.support import check_method, supported_methods
from tests.support.toy_models import Shortcuts, seeded, vit

QUICK = {
    "iia": {"steps": 2, "tolerance": 1e-3},
    "iia2": {"steps": 3, "tolerance": 1e-3},
    "iia3": {"steps": 2, "tolerance": 1e-3},
    "dix2": {"steps": 3, "tolerance": 1e-3},
    "dix3": {"steps": 3, "tolerance": 1e-3},
    "integrated_gradients": {"steps": 5},
    "gradient_shap": {"samples": 5},
    "occlusion": {"window": 8, "stride": 4},
    "rise": {"masks": 20, "cells": 4},
    "extremal_perturbation": {"steps": 3, "areas": (0.1, 0.5)},
    "inr": {"steps": 2, "areas": 2, "lr": 2e-5},  # sharp borders amplify rounding of the scores
}
FEATURE_METHODS = [name for name, method in METHODS.items() if method.needs != "attention"]
CASES = [("transformer", name) for name in METHODS] + [("cnn", name) for name in FEATURE_METHODS]
EVERY_CASE = pytest.mark.parametrize("case", CASES, indirect=True, ids=[f"{m}-{c}" for c, m in CASES])


@pytest.fixture
def case(request, images, wide_images):
    name, method = request.param
    return request.getfixturevalue(name), method, images if name == "cnn" else wide_images


def state(classifier: Classifier) -> list[object]:
    """Attributes of the modules that a method may change."""
    values: list[object] = []
    for module in classifier.model.modules():
        values += [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
        values += ["forward" in module.__dict__, getattr(module, "fused_attn", None), getattr(module, "inplace", None)]
    return [*values, *(p.requires_grad for p in classifier.model.parameters())]


@EVERY_CASE
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
def test_a_cut_inside_a_block_with_in_place_addition(images, method, options):
    classifier = Classifier(seeded(Shortcuts()), input_size=16)
    whole = attribute(method, classifier, images, [1, 4, 0], **options)
    for max_batch in (1, 2, 7):
        chunked = attribute(method, classifier, images, [1, 4, 0], max_batch=max_batch, **options)
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


@EVERY_CASE
def test_targets_default_to_the_predicted_classes(case):
    classifier, method, images = case
    quick = QUICK.get(method, {})
    predicted = classifier(images).argmax(1)
    default = attribute(method, classifier, images, **quick)
    torch.testing.assert_close(default, attribute(method, classifier, images, predicted, **quick))
    torch.testing.assert_close(default, attribute(method, classifier, images, ["predicted"] * 3, **quick))


@pytest.mark.parametrize(
    "kind", [np.array, iter, lambda listed: dict.fromkeys(listed, 0)], ids=["array", "iterator", "other iterable"]
)
def test_predicted_classes_in_any_iterable(tiny_classifier, kind):
    images = torch.zeros(2, 3, 8, 8)
    images[0, :, :, 4:], images[1, :, :, :4] = 1, 0.5  # the first image's predicted class is `right`, with index 1
    maps = attribute("integrated_gradients", tiny_classifier, images, kind(["predicted", "left"]), steps=2)
    torch.testing.assert_close(maps, attribute("integrated_gradients", tiny_classifier, images, [1, 0], steps=2))
    assert maps[0].sum() > 0
    predicted = attribute("integrated_gradients", tiny_classifier, images, np.array("predicted"), steps=2)
    torch.testing.assert_close(predicted[0], maps[0])


@pytest.mark.parametrize("after", [0, 1, 2])
@EVERY_CASE
def test_an_exception_leaves_the_modules_unchanged(case, after):
    classifier, method, images = case
    before, model, calls = state(classifier), classifier.model, iter(range(1000))

    class StopHereError(RuntimeError):
        pass

    def boom(*_: object) -> None:
        if next(calls) == after:
            raise StopHereError

    supported_methods(classifier)
    handle = (model.norm if hasattr(model, "norm") else model.hidden).register_forward_hook(boom)
    # One image at a time, so that a path method reaches a replay of the layers after its cut.
    with pytest.raises(StopHereError):
        attribute(method, classifier, images, 1, max_batch=1, **QUICK.get(method, {}))
    handle.remove()
    assert state(classifier) == before


def test_only_the_layers_after_the_cut_run_at_every_point(transformer, wide_images):
    """3 x 3 points: the first blocks run once per point of the input path, the head once per pair."""
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


def test_windowed_attention_is_refused_with_the_methods_that_work():
    import timm

    model = timm.create_model("swinv2_tiny_window8_256", num_classes=3)
    classifier = Classifier(model, input_size=256)
    with pytest.raises(InputError, match=r"methods that work on it: iia, .*gradcam.*rise") as error:
        attribute("gae", classifier, torch.rand(1, 3, 256, 256))
    assert "\n" not in str(error.value)


@EVERY_CASE
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_methods_work_inside_no_grad_and_inference_mode(case, mode):
    classifier, method, images = case
    expected = attribute(method, classifier, images, 1, **QUICK.get(method, {}))
    with mode():
        maps = attribute(method, classifier, images.clone(), 1, **QUICK.get(method, {}))
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("method", ["iia2", "iia3", "dix2", "gae", "gradcam"])
def test_checkpointed_activations_do_not_change_maps(method):
    classifier = Classifier("vit_tiny_patch16_224", weights="random", num_classes=3, input_size=48)
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = attribute(method, classifier, images, 1, **QUICK.get(method, {}))
    classifier.checkpoint_activations()
    torch.testing.assert_close(attribute(method, classifier, images, 1, **QUICK.get(method, {})), expected)
    assert classifier.model.grad_checkpointing


def test_a_forward_method_set_by_the_user_is_kept(transformer, wide_images):
    module = transformer.model.blocks[-1].mlp
    original = module.forward
    module.forward = halved = lambda x: original(x) / 2
    before = transformer(wide_images)
    attribute("iia2", transformer, wide_images, 1, steps=2)
    assert module.__dict__["forward"] is halved
    assert torch.equal(transformer(wide_images), before)


def test_errors_distinguish_options_from_methods(cnn):
    with pytest.raises(InputError, match="method=gradcam: layer='foo' is not a module") as error:
        check_method("gradcam", cnn, {"layer": "foo"})
    assert "methods that work" not in str(error.value)


def test_unknown_methods_and_shapes_are_named(cnn, images):
    with pytest.raises(InputError, match=r"'gradcan' is unknown; did you mean gradcam"):
        attribute("gradcan", cnn, images)
    with pytest.raises(InputError, match=r"shape \(3, 16, 16\)"):
        attribute("gradcam", cnn, images[0])
    with pytest.raises(InputError, match="target=9"):
        attribute("gradcam", cnn, images, 9)
    assert attribute("gradcam", cnn, images[:0]).shape == (0, 1, 16, 16)
    assert named_layers(cnn, ["middle"])[0].grid == (4, 4)


def test_invalid_numbers_are_named(cnn, images):
    with pytest.raises(InputError, match="steps=0; give at least one node"):
        attribute("integrated_gradients", cnn, images, steps=0)
    with pytest.raises(InputError, match=r"lr=-1\.0; give a positive learning rate"):
        attribute("inr", cnn, images, lr=-1.0, steps=1)


def test_bfloat16_forwards_give_float32_maps(images, wide_images):
    classifier = Classifier(vit(), input_size=(16, 24), precision="bf16")
    exact = Classifier(vit(), input_size=(16, 24))
    for method in ("iia2", "gae", "dix2"):
        maps, expected = (attribute(method, c, wide_images, 1, **QUICK.get(method, {})) for c in (classifier, exact))
        assert maps.dtype == torch.float32
        assert (maps - expected).abs().max() < 0.2 * expected.max()


def test_constant_maps_warn(cnn, images):
    """The head ignores the last map of every image but the first, so their gradients are zero."""
    hidden = cnn.model.hidden
    handle = hidden.register_forward_hook(
        lambda _, __, output: torch.cat([output[:1], torch.zeros_like(output[1:])]) if len(output) > 1 else output
    )
    with pytest.warns(ConstantMapWarning, match=r"gradcam: the maps of 2 of 3 images \(index 1, 2\) are constant"):
        maps = attribute("gradcam", cnn, images, 4)
    handle.remove()
    assert maps[0].std() > 0
    assert not maps[1:].any()


def test_maps_that_are_not_one_per_image_are_refused(cnn, images, monkeypatch):
    class Short:
        needs, function = "pixels", staticmethod(lambda classifier, images, targets: images[:1, :1])

    monkeypatch.setitem(METHODS, "short", Short)
    monkeypatch.setattr("ltx.attribution.attribute.check_options", lambda method, options: {})
    with pytest.raises(InputError, match=r"returns maps \(1, 1, 16, 16\) for 3 images"):
        attribute("short", cnn, images, 1)
