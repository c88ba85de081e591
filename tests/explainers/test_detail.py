"""Detail within the patches of a vision transformer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ltx.explainers.detail import PatchDetail
from tests.support.mask_networks import classifier_for, explainer_for, images_for


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 64),
        ("vit_small_patch14_reg4_dinov2", 56),
        ("vit_tiny_patch16_224", (64, 96)),
    ],
)
def test_masks_of_the_copy_are_finer_and_start_from_those_of_the_patches(name: str, size: int | tuple[int, int]):
    classifier = classifier_for(name, size)
    explainer = explainer_for(classifier)
    state = torch.get_rng_state()
    copy = explainer.with_detail()
    assert torch.equal(torch.get_rng_state(), state)
    assert explainer.detail is None
    assert "detail.last.weight" in copy.scope("head")
    assert dict(copy.named_parameters())["head.1.weight"] is explainer.head[1].weight
    _, features = explainer.predict_and_encode(images_for(classifier))
    targets = torch.tensor([0, 3])
    patches, logits = explainer.decode(features, targets), copy.decode(features, targets)
    assert logits.shape[-2:] == (4 * patches.shape[-2], 4 * patches.shape[-1])
    assert torch.equal(logits, F.interpolate(patches, logits.shape[-2:], mode="bilinear", align_corners=False))


def test_detail_is_what_differs_between_patches():
    """The mean over the patches is the same at each place within a patch: no grating over the whole image."""
    torch.manual_seed(0)
    detail = PatchDetail(width=8, scale=4)
    torch.nn.init.normal_(detail.last.weight)
    added = detail(torch.zeros(2, 1, 3, 5), torch.randn(2, 3, 5, 8))
    assert added.shape == (2, 1, 12, 20)
    assert added.std() > 0.01
    means = F.pixel_unshuffle(added, 4).mean((2, 3))
    assert torch.allclose(means, torch.zeros(2, 16), atol=1e-5)


def test_detail_crosses_the_borders_of_patches():
    """A change of one patch's token changes the two nearest rows of values of its neighbours, and none further away."""
    torch.manual_seed(0)
    detail = PatchDetail(width=8, scale=4).double()
    detail.mixed = torch.nn.Identity()  # normalisation over the whole map
    torch.nn.init.normal_(detail.last.weight)
    tokens = torch.randn(1, 5, 1, 8, dtype=torch.double)
    changed = tokens.clone()
    changed[0, 2] = torch.randn(8)
    before, after = (detail(torch.zeros(1, 1, 5, 1), each).double() for each in (tokens, changed))
    # The subtracted mean over the patches changes everywhere by the same amount at each place within a patch.
    difference = F.pixel_unshuffle(after - before, 4)
    relative = F.pixel_shuffle(difference - difference[:, :, :1], 4)[0, 0].abs().amax(1)
    assert relative.gt(1e-9).nonzero().flatten().tolist() == list(range(6, 14))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vit_tiny_patch16_224", {"variant": "released", "conditioned": False}), ("resnet18", {})],
)
def test_networks_without_a_finer_copy(name: str, settings: dict[str, object]):
    explainer = explainer_for(classifier_for(name), **settings)
    assert explainer.with_detail() is explainer
