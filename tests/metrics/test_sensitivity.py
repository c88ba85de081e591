"""Sanity checks and stability of methods with known behaviour."""

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from ltx import Classifier, InputError
from ltx.metrics.rank_correlation import rank_correlation
from ltx.metrics.registry import PROTOCOLS
from ltx.metrics.sensitivity import cascade, other_classes


@pytest.fixture
def layered():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 16), nn.ReLU(), nn.Linear(16, 5)
    )
    return Classifier(model, num_classes=5, input_size=8)


def gradient(classifier, images, targets):
    pixels = images.clone().requires_grad_()
    classifier(pixels).gather(1, targets[:, None]).sum().backward()
    return pixels.grad.sum(1, keepdim=True)


def edges(classifier, images, targets):
    return images.sum(1, keepdim=True)  # a method that ignores the classifier


@pytest.fixture
def scores(make_batch):
    def run(name, classifier, explain, count=3):
        images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        targets = torch.arange(count)
        batch = make_batch(classifier, images, targets)
        protocol = PROTOCOLS[name]()
        metrics = protocol.collection()
        maps = explain(classifier, images, targets)
        metrics.update(**protocol.measure(classifier, batch, maps, protocol.prepare(classifier, batch), explain))
        return {key: float(value) for key, value in metrics.compute().items()}

    return run


def test_a_method_that_ignores_the_classifier_fails_the_sanity_checks(scores, layered):
    result = scores("sensitivity", layered, edges)
    assert result["Cascade"] == pytest.approx(1.0)
    assert result["RandomLogit"] == pytest.approx(1.0)


def test_gradients_pass_the_sanity_checks(scores, layered):
    result = scores("sensitivity", layered, gradient)
    assert abs(result["Cascade"]) < 0.6
    assert result["RandomLogit"] < 0.6


def test_the_cascade_starts_at_the_output_and_does_not_change_the_original(layered):
    before = {key: value.clone() for key, value in layered.model.state_dict().items()}
    changed = []
    for randomised in cascade(layered, 3, seed=0):
        now = randomised.model.state_dict()
        changed.append([key for key in before if key.endswith("weight") and not torch.equal(now[key], before[key])])
        for key, value in before.items():  # shuffled, not redrawn: the same values in another order
            assert torch.equal(now[key].flatten().sort().values, value.flatten().sort().values)
    assert changed == [["5.weight"], ["3.weight", "5.weight"], ["0.weight", "3.weight", "5.weight"]]
    assert all(torch.equal(value, before[key]) for key, value in layered.model.state_dict().items())


def test_cached_attention_biases_are_randomised():
    torch.manual_seed(0)
    classifier = Classifier("levit_128s", weights="random", num_classes=5)
    biases = [module for module in classifier.model.modules() if hasattr(module, "attention_bias_cache")]
    for module in biases:
        torch.nn.init.normal_(module.attention_biases)
    classifier(torch.rand(1, 3, 224, 224))  # fills the cache
    (changed,) = cascade(classifier, 1, seed=0)
    changed(torch.rand(1, 3, 224, 224))
    after = [module for module in changed.model.modules() if hasattr(module, "attention_bias_cache")]
    assert biases
    for before, now in zip(biases, after, strict=True):
        (kept,) = now.attention_bias_cache.values()
        assert torch.equal(kept, now.attention_biases[:, now.attention_bias_idxs])
        assert not torch.equal(now.attention_biases, before.attention_biases)


def test_folded_classifiers_are_randomised():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    classifier, images = Classifier(model, num_classes=5, input_size=8).fold_norms(), torch.rand(2, 3, 8, 8)
    before = classifier(images)
    assert all((randomised(images) - before).abs().max() > 0.01 for randomised in cascade(classifier, 2, seed=0))
    torch.testing.assert_close(classifier(images), before)


def test_the_other_class_differs_from_the_target():
    targets = torch.tensor([0, 1, 2, 3] * 50)
    others = other_classes(targets, 4, 0, [str(i) for i in range(200)])
    assert (others != targets).all()
    assert set(others.tolist()) == {0, 1, 2, 3}
    with pytest.raises(InputError, match="the classifier has one"):
        other_classes(targets[:1], 1, 0, ["a"])


def test_stability_of_smooth_and_of_random_methods(scores, layered):
    assert scores("stability", layered, edges)["Stability"] > 0.97

    def noise(classifier, images, targets):
        return torch.rand(images.shape[0], 1, 8, 8, generator=torch.Generator().manual_seed(int(images.sum() * 1e4)))

    assert scores("stability", layered, noise)["Stability"] < 0.5


def test_rank_correlation_agrees_with_scipy_and_is_defined_for_constant_maps():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(4, 1, 8, 8, generator=generator)
    second = (first + torch.rand(4, 1, 8, 8, generator=generator)).mul(4).round()  # many ties
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-9)
    constant = torch.full((1, 1, 2, 2), 3.0)
    varied = torch.arange(4.0).view(1, 1, 2, 2)
    assert rank_correlation(constant, constant).item() == 1
    assert rank_correlation(constant, varied).item() == 0
    assert rank_correlation(varied, -varied).item() == pytest.approx(-1)
