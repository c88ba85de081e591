import copy

import pytest
import torch
import torch.nn.functional as F

from ltx import InputError
from ltx.attribution.attribute import attribute
from tests.support.reference_vit import ReferenceViT, as_map, rollout


@pytest.mark.parametrize("method", ["dix2", "dix3"])
def test_features_equal_the_written_protocol(cnn, images, method):
    maps = attribute(method, cnn, images, 3)
    model = copy.deepcopy(cnn.model).double()
    mean, std = (part.double() for part in cnn.normalisation)
    rest = {
        "stem": lambda v: model.last(model.middle(v)),
        "middle": lambda v: model.last(v),
        "last": lambda v: v,
    }
    for row in range(3):
        x = (images[row : row + 1].double() - mean) / std
        activations = {"stem": model.stem(x)}
        activations["middle"] = model.middle(activations["stem"])
        activations["last"] = model.last(activations["middle"])

        def gradient(name, v):
            v = v.detach().clone().requires_grad_()
            score = model.head(model.hidden((rest[name](v) * 1).flatten(1)).relu())[0, 3]
            return torch.autograd.grad(score, v)[0]

        h = {"last": 5 * gradient("last", activations["last"]).relu() * activations["last"].detach().relu()}
        for name in ("middle", "stem"):
            u = activations[name].detach()
            r = u.min(1, keepdim=True).values
            h[name] = 0
            for k in range(5):
                v = r + k / 4 * (u - r)
                h[name] = h[name] + (gradient(name, v) * v.relu() * ((v - r) / 4).norm()).relu()
        h = {k: F.interpolate(v[None], size=(8, 8, 8), mode="trilinear")[0] for k, v in h.items()}
        h1, h2, h3 = h["last"], h["middle"], h["stem"]
        combined = h2 * h1 + h1 if method == "dix2" else (h2 * h3 * h1 + h1) * h1
        expected = F.interpolate(combined.sum(1, keepdim=True), size=(16, 16), mode="bicubic")
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(maps[row : row + 1].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "blocks"), [("dix2", [2, 1]), ("dix3", [2, 1, 0])])
def test_attention_equals_the_written_protocol(transformer, wide_images, method, blocks):
    maps = attribute(method, transformer, wide_images, 4, tolerance=0.0)
    reference = ReferenceViT(transformer)
    for row in range(3):
        x = reference.normalise(wide_images[row : row + 1])
        reference.logits(x)
        attention = [a.detach() for a in reference.attention]
        tokens = 0
        for block in blocks:
            points = [reference.relevances(x, 4, {block: k / 10 * attention[block]}) for k in range(11)]
            tokens = tokens + rollout([torch.stack(each).mean(0) for each in zip(*points, strict=True)])
        expected = as_map(tokens)
        assert (maps[row : row + 1].double() - expected).abs().max() < 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize(("method", "blocks"), [("dix2", [2, 1]), ("dix3", [2, 1, 0])])
def test_released_attention_puts_the_last_blocks_attention_into_each_block(transformer, wide_images, method, blocks):
    """The authors' code takes `blocks[-1]`'s attention as the path's end, whichever block receives the interpolant."""
    maps = attribute(method, transformer, wide_images, 4, variant="released", tolerance=0.0)
    reference = ReferenceViT(transformer)
    for row in range(3):
        x = reference.normalise(wide_images[row : row + 1])
        reference.logits(x)
        last = reference.attention[-1].detach()
        tokens = 0
        for block in blocks:
            points = [reference.relevances(x, 4, {block: k / 10 * last}) for k in range(11)]
            tokens = tokens + rollout([torch.stack(each).mean(0) for each in zip(*points, strict=True)])
        expected = as_map(tokens)
        span = expected.max() - expected.min()
        assert (maps[row : row + 1].double() - expected).abs().max() < 1e-5 * span
    assert (maps - attribute(method, transformer, wide_images, 4)).abs().max() > 1e-3 * span


def test_variants_of_feature_maps_are_equal(cnn, images):
    assert torch.equal(attribute("dix2", cnn, images, 3, variant="released"), attribute("dix2", cnn, images, 3))
    with pytest.raises(InputError, match="variant='mine'"):
        attribute("dix2", cnn, images, 3, variant="mine")
