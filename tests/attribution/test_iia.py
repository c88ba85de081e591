"""IIA: closed forms, float64 quadrature, and the variant of the released code."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ltx import Classifier, InputError
from ltx.attribution.attention_path import TOLERANCE, mean_and_residuals, mean_of_rectified, path_gradients
from ltx.attribution.attribute import attribute
from ltx.attribution.rollout import patch_map
from ltx.bench.attribute import naive_iia2
from tests.support.reference_vit import ReferenceViT, as_map, rollout
from tests.support.toy_models import MEAN, STD, vit


class Linear(nn.Module):
    """A linear map of features, and a linear score of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 4, 4, bias=False)
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def double_parts(classifier: Classifier) -> nn.Module:
    return copy.deepcopy(classifier.model).double()


def test_iia2_of_a_linear_model_is_its_closed_form(images):
    torch.manual_seed(0)
    model, n = Linear(), 7
    maps = attribute("iia2", Classifier(model, input_size=16), images, 1, steps=n)
    with torch.no_grad():
        u = model.features(images)
        r = u.amin((2, 3), keepdim=True)
        slope = model.head.weight[1].view(1, 4, 1, 1) / 16
        # (u - r) ∫ (r + a (u - r)) da = (u² - r²) / 2. Both u and r are proportional to the input's factor a, so the
        # outer integral is that of a², for which the trapezoid rule gives 1/3 + 1/(6 n²).
        expected = ((u**2 - r**2) / 2 * slope * (1 / 3 + 1 / (6 * n**2))).mean(1, keepdim=True)
    expected = F.interpolate(expected, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-7)


def nested_quadrature(
    classifier: Classifier, image: torch.Tensor, target: int, names: list[str], nodes
) -> torch.Tensor:
    """IIA by nested loops in float64 over the parts of `ThreeStages`."""
    model = double_parts(classifier)
    mean, std = (part.double() for part in classifier.normalisation)
    stages = [model.stem, model.middle, model.last]
    cuts = [["stem", "middle", "last"].index(name) for name in names]

    def between(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
        for stage in stages[first:last]:
            x = stage(x)
        return x

    def integrate(u: torch.Tensor, depth: int, weight: float) -> torch.Tensor:
        r, total = u.amin((2, 3), keepdim=True), 0
        for a, w in nodes:
            v = (r + a * (u - r)).detach().requires_grad_()
            if depth + 1 < len(cuts):
                total = total + integrate(
                    between(v, cuts[depth] + 1, cuts[depth + 1] + 1).detach(), depth + 1, weight * w
                )
                continue
            score = model.head(model.hidden(between(v, cuts[depth] + 1, 3).flatten(1)).relu())[0, target]
            (gradient,) = torch.autograd.grad(score, v)
            total = total + weight * w * ((u - r) * v.detach() * gradient).mean(1, keepdim=True)
        return total

    total = 0
    for a, w in nodes:
        start = (a * image.double() - mean) / std
        total = total + integrate(between(start, 0, cuts[0] + 1).detach(), 0, w)
    return F.interpolate(total, size=image.shape[-2:], mode="bilinear")


def trapezoid(n: int) -> list[tuple[float, float]]:
    return [(i / n, (1 if 0 < i < n else 0.5) / n) for i in range(n + 1)]


@pytest.mark.parametrize(("method", "layers"), [("iia2", ["last"]), ("iia2", ["middle"]), ("iia3", ["middle", "last"])])
def test_path_sums_of_a_relu_net_equal_float64_quadrature(cnn, images, method, layers):
    maps = attribute(method, cnn, images, 2, steps=4, layers=layers)
    for row in range(3):
        expected = nested_quadrature(cnn, images[row : row + 1], 2, layers, trapezoid(4))
        torch.testing.assert_close(maps[row : row + 1].double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_path_sums_approach_the_integral(cnn, images):
    fine = nested_quadrature(cnn, images[:1], 2, ["last"], trapezoid(60))
    errors = [(attribute("iia2", cnn, images[:1], 2, steps=n) - fine).abs().max() for n in (3, 30)]
    assert errors[1] < 0.01 * fine.abs().max()
    assert errors[1] < errors[0] / 5


def test_default_layers_are_the_last_maps(cnn, images):
    assert torch.equal(attribute("iia2", cnn, images, 2), attribute("iia2", cnn, images, 2, layers=["last"]))
    named = attribute("iia3", cnn, images, 2, steps=3, layers=["middle", "last"])
    assert torch.equal(attribute("iia3", cnn, images, 2, steps=3), named)


def test_released_features_equal_the_written_protocol(cnn, images):
    """Σ_{i=0…10} relu(A(x_i)) ∘ ∂f_y/∂A(x_i), x_i = (i/10) x normalised; channel sum, bicubic, min–max."""
    maps = attribute("iia2", cnn, images, 3, variant="released")
    model = double_parts(cnn)
    for row in range(3):
        normalised = (images[row : row + 1].double() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
            3, 1, 1
        )
        total = 0
        for i in range(11):
            activation = model.last(model.middle(model.stem(i / 10 * normalised))).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(model.head(model.hidden(activation.flatten(1)).relu())[0, 3], activation)
            total = total + activation.detach().relu() * gradient
        big = F.interpolate(total.sum(1, keepdim=True), size=(16, 16), mode="bicubic")
        expected = (big - big.min()) / (big.max() - big.min())
        torch.testing.assert_close(maps[row : row + 1].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_released_attention_equals_the_written_protocol(transformer, wide_images, tolerance):
    """6 x 6 points; the last block's attention scaled; relu(A ∘ ∇A), mean over points and heads; one rollout."""
    targets = [1, 4, 0]
    maps = attribute("iia2", transformer, wide_images, targets, variant="released", tolerance=tolerance)
    reference = ReferenceViT(transformer)
    for row, target in enumerate(targets):
        normalised, points = reference.normalise(wide_images[row : row + 1]), []
        for i in range(6):
            reference.logits(i / 5 * normalised)
            last = reference.attention[-1].detach()
            points += [reference.relevances(i / 5 * normalised, target, {2: k / 5 * last}) for k in range(6)]
        expected = as_map(rollout([torch.stack(block).mean(0) for block in zip(*points, strict=True)]))
        difference = (maps[row : row + 1].double() - expected).abs().max() / (expected.max() - expected.min())
        assert difference < 1e-5


@pytest.mark.parametrize(("method", "blocks"), [("iia2", [2]), ("iia3", [1, 2])])
def test_paper_attention_equals_nested_loops(transformer, wide_images, method, blocks):
    n, target = 2, 3
    maps = attribute(method, transformer, wide_images[:1], target, steps=n, tolerance=0.0)
    reference = ReferenceViT(transformer)
    image, expected = wide_images[:1].double(), 0
    for a0, w0 in trapezoid(n):
        x = reference.normalise(a0 * image)
        for b, wb in trapezoid(n) if len(blocks) == 2 else [(None, 1.0)]:
            reference.logits(x)
            given = {1: b * reference.attention[1].detach()} if b is not None else {}
            reference.logits(x, given)
            last = reference.attention[2].detach()
            for a, wa in trapezoid(n):
                relevances = reference.relevances(x, target, given | {2: a * last})
                expected = expected + w0 * wb * wa * last[0].mean(0)[0, 1:] * rollout(relevances)
    expected = as_map(expected)
    torch.testing.assert_close(maps.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("options", [{"distilled": True}, {"global_pool": "avg"}])
def test_rows_are_multiplied_before_they_are_averaged(wide_images, options):
    """If the head reads several tokens: the mean of `u ∘ q` over them, not the product of the means."""
    n, target = 2, 3
    classifier = Classifier(vit(**options), input_size=(16, 24))
    maps = attribute("iia2", classifier, wide_images[:1], target, steps=n, tolerance=0.0)
    expected = 0
    for a0, w0 in trapezoid(n):
        path = path_gradients(
            classifier, a0 * wide_images[:1], torch.tensor([target]), [2], [(0.0,), (0.5,), (1.0,)], 8, 0
        )
        read = path.start.nonzero()[:, 0].tolist()
        for (_, wa), shown, relevances in zip(trapezoid(n), path.attention, path.points(), strict=True):
            for row in read:
                carried = torch.eye(len(path.start))[row]
                for matrix in reversed(relevances):
                    missing = len(path.start) - matrix.shape[-2]  # rows that the head does not read
                    total = F.pad(matrix[0], (0, 0, 0, missing)) + torch.eye(len(carried))
                    carried = carried @ (total / total.sum(1, keepdim=True))
                expected = expected + w0 * wa * shown[0, row] * carried / len(read)
    expected = patch_map(classifier, expected[None], wide_images[:1])
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_a_small_tolerance_changes_little(transformer, wide_images):
    exact, *others = (
        attribute("iia2", transformer, wide_images, 1, variant="released", tolerance=t) for t in (0.0, 1e-4, TOLERANCE)
    )
    span = exact.max() - exact.min()
    assert (others[0] - exact).abs().max() < 1e-5 * span
    assert (others[1] - exact).abs().max() < 1e-3 * span


@pytest.mark.parametrize("options", [{}, {"distilled": True}, {"reg_tokens": 2}, {"global_pool": "avg"}])
def test_partial_passes_equal_full_passes(wide_images, options):
    """Compared with full passes, also if the head reads all tokens or several prefix tokens."""
    classifier = Classifier(vit(**options), input_size=(16, 24))
    maps = attribute("iia2", classifier, wide_images, [1, 4, 0], variant="released", steps=2, tolerance=0.0)
    expected = naive_iia2(classifier, wide_images, torch.tensor([1, 4, 0]), steps=2)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"variant": "mine"}, "variant='mine'"),
        ({"steps": 0}, "steps=0"),
        ({"steps": "many"}, "steps='many'"),
        ({"layers": ["nose"]}, "nose"),
        ({"layers": "nose"}, "'nose' is not a module"),
        ({"layers": 3}, "'3' is not a module"),
        ({"layers": ["middle", "last"]}, "takes 1"),
        ({"step": 3}, "no option 'step'; did you mean steps"),
    ],
)
def test_invalid_options_are_named(cnn, images, options, text):
    with pytest.raises(InputError, match=text):
        attribute("iia2", cnn, images, **options)


def test_released_iia3_does_not_exist(cnn, images):
    with pytest.raises(InputError, match="iia2 only"):
        attribute("iia3", cnn, images, variant="released")


def test_the_basis_reproduces_the_gradients_and_their_mean():
    """With all directions every vector is reproduced; with the mean alone, the mean over the points is."""
    vectors = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double) + 1
    weights, coefficients, size = mean_and_residuals(vectors @ vectors.mT, 0.0)
    assert size == 6  # the residuals of six vectors span five dimensions
    basis = weights.mT @ vectors
    torch.testing.assert_close(coefficients @ basis, vectors)
    torch.testing.assert_close(basis[:, 0], vectors.mean(1))
    torch.testing.assert_close((coefficients[:, :, :1] @ basis[:, :1]).mean(1), vectors.mean(1))
    _, _, one = mean_and_residuals(vectors @ vectors.mT, 10.0)
    assert one == 1


@pytest.mark.parametrize("count", [1, 3])
def test_mean_of_rectified_combinations_equals_a_loop(count):
    generator = torch.Generator().manual_seed(0)
    basis = [torch.randn(2, 3, 5, 5, generator=generator) for _ in range(count)]
    coefficients = torch.randn(2, 4, count, generator=generator)
    expected = torch.stack(
        [sum(coefficients[:, k, r, None, None, None] * basis[r] for r in range(count)).relu() for k in range(4)]
    ).mean(0)
    torch.testing.assert_close(mean_of_rectified(basis, coefficients), expected)
