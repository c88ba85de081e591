from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ltx import Classifier
from ltx.explainers.conditioning import ClassEvidence, ClassQuery
from ltx.explainers.inr import INRExplainer
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.unet import UNetExplainer
from ltx.explainers.vit import ViTExplainer
from ltx.export.comparing import eager, photographs
from ltx.export.graph import ExplainerGraph, HeadRows, _FixedPoint, _Half
from tests.support.own_models import build


def small(kind: type[MaskNetwork] = UNetExplainer, head: str = "softmax", channels: int | None = None) -> MaskNetwork:
    """A network of random weights, the same at each call."""
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224" if kind is ViTExplainer else "resnet10t"
    classifier = Classifier(name, weights="random", num_classes=7, input_size=64, head=head, channels=channels)
    return kind(classifier).eval()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_rows_read_from_the_head_are_the_rows_of_the_network(head: str) -> None:
    explainer = small(head=head)
    targets = torch.tensor([6, 0, 3])
    for module in [m for m in explainer.modules() if isinstance(m, (ClassQuery, ClassEvidence))]:
        rows = HeadRows(explainer.classifier, scaled=isinstance(module, ClassQuery))
        assert torch.allclose(rows[targets], module.rows[targets], atol=1e-6)


@pytest.mark.parametrize("kind", [UNetExplainer, ViTExplainer, INRExplainer])
@pytest.mark.parametrize("pixels", ["uint8", "float"])
def test_the_graph_answers_as_the_explainer_does(kind: type[MaskNetwork], pixels: str) -> None:
    reference = small(kind)
    graph = ExplainerGraph(small(kind), pixels)  # type: ignore[arg-type]
    targets = torch.tensor([-1, 4, 0])
    with torch.no_grad():
        logits, mask = graph(*graph.arguments(images(3), targets))
    expected, expected_mask = eager(reference, images(3), targets)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(mask, expected_mask, atol=1e-5)
    predicted = expected[0].argmax()
    assert torch.allclose(eager(reference, images(3), predicted.expand(3))[1][0], mask[0], atol=1e-5)


def own_module() -> MaskNetwork:
    """An explainer of a module that does not say which of its layers is the head, as torchvision's."""
    torch.manual_seed(0)
    return UNetExplainer(Classifier(build(classes=7, width=4), input_size=64)).eval()


def binary() -> MaskNetwork:
    torch.manual_seed(0)
    classifier = Classifier("resnet10t", weights="random", num_classes=1, input_size=64, head="binary")
    return UNetExplainer(classifier).eval()


@pytest.mark.parametrize("network", [own_module, binary])
def test_heads_that_are_not_read_in_place(network: Callable[[], MaskNetwork]) -> None:
    reference, graph = network(), ExplainerGraph(network())
    assert reference.has_evidence
    targets = torch.tensor([0, 1, -1])
    with torch.no_grad():
        answers = graph(*graph.arguments(images(3), targets))
    for answer, expected in zip(answers, eager(reference, images(3), targets), strict=True):
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)


def test_the_area_is_an_input() -> None:
    graph = ExplainerGraph(small(INRExplainer))
    with torch.no_grad():
        for area in (0.1, 0.6):
            mask = graph(*graph.arguments(images(2), torch.tensor([-1, 2]), area))[1]
            assert mask.mean((1, 2, 3)).tolist() == pytest.approx([area, area], abs=0.01)
    assert graph.inputs == ["image", "target", "area"]


def test_stored_weights_are_close_and_half_as_large() -> None:
    value = torch.randn(8, 400, generator=torch.Generator().manual_seed(0))
    for form, largest in ((_Half(), 2**-11 * 4), (_FixedPoint(), float(value.abs().max()) / 32767 / 2 * 1.01)):
        stored = form.right_inverse(value)
        assert stored[0].element_size() == 2
        assert float((form(*stored) - value).abs().max()) <= largest
    exact, reference = ExplainerGraph(small(), weights="int16"), small()
    with torch.no_grad():
        mask = exact(*exact.arguments(images(2), torch.tensor([-1, 3])))[1]
    assert torch.allclose(mask, eager(reference, images(2), torch.tensor([-1, 3]))[1], atol=1e-3)
    assert any(tensor.dtype == torch.int16 for tensor in exact.state_dict().values())


@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels(channels: int) -> None:
    explainer = small(channels=channels)
    graph, pixels = ExplainerGraph(explainer), photographs(explainer, 2)
    assert graph.example()[0].shape == pixels.shape == (2, channels, 64, 64)
    targets = torch.tensor([-1, 3])
    for answer, expected in zip(
        graph(*graph.arguments(pixels, targets)), eager(explainer, pixels, targets), strict=True
    ):
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)
