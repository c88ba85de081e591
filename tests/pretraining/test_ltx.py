"""The LTX LightningModule: it learns a known answer, in as few forward passes as documented."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx import Classifier, Fill
from ltx.explainers.settings import ExplainerConfig
from ltx.objectives.objective import Objective
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.mosaics import MosaicTargets, make_mosaics
from ltx.pretraining.settings import OptimiserConfig
from ltx.runtime.seeds import row_generators
from tests.support.deciding_square import Bright, images_with_square


def small_module() -> LTXPretraining:
    classifier = Classifier("resnet18", weights="random", num_classes=6, input_size=64)
    explainer = ExplainerConfig().build(classifier)
    return LTXPretraining(explainer, Objective(), Fill("black"), OptimiserConfig(), max_steps=10)


def test_masks_find_the_square_that_decides():
    classifier = Classifier(Bright(), input_size=32)
    torch.manual_seed(0)
    explainer = ExplainerConfig(name="unet", trunk="resnet10t", conditioned=False).build(classifier)
    module = LTXPretraining(
        explainer, Objective(), Fill("black"), OptimiserConfig(lr=3e-3, trunk_lr=1e-3), max_steps=120, mosaic=0
    )
    configured = module.configure_optimizers()
    adamw, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        images, _ = images_with_square(8, generator)
        _, verdict = module.evaluate_objective(images, generator)
        adamw.zero_grad()
        verdict.loss.mean().backward()
        adamw.step()
        schedule.step()
    images, square = images_with_square(16, generator)
    mask = explainer.eval()(images).detach()
    inside = (mask * square).sum((1, 2, 3)) / square.sum((1, 2, 3))
    outside = (mask * (1 - square)).sum((1, 2, 3)) / (1 - square).sum((1, 2, 3))
    assert float(inside.mean()) > 0.5
    assert float(outside.mean()) < 0.25


def test_teacher_maps_do_not_apply_to_mosaics_and_other_classes():
    module = small_module()
    classifier = module.explainer.classifier
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    map_targets = classifier(images).argmax(1)
    map_targets[1] = (map_targets[1] + 1) % 6
    sources = torch.arange(4).view(4, 1, 1).repeat(1, 2, 2)
    sources[2, 0, 1] = 3
    mosaics = MosaicTargets(
        sources, torch.tensor([False, False, True, False]), torch.tensor([2]), classifier(images[2:3])
    )
    generator = torch.Generator().manual_seed(0)
    masked, _ = module.evaluate_objective(images, generator, None, mosaics, (maps, map_targets))
    assert masked.teacher is not None
    assert torch.equal(masked.teacher[[0, 3]], maps[[0, 3]])
    assert not masked.teacher[[1, 2]].any()


def test_a_step_classifies_each_full_image_and_each_masked_image_once():
    module = small_module()
    rows: list[int] = []
    model = module.explainer.classifier.model
    model.conv1.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    module.evaluate_objective(torch.rand(3, 3, 64, 64), torch.Generator().manual_seed(0))
    assert rows[0] == 3
    assert sum(rows[1:]) == 6  # kept and removed


def test_draws_do_not_depend_on_how_a_batch_is_divided():
    """A global batch is the same on any number of devices: mosaics and fills depend on each image's position."""
    images, positions = torch.rand(8, 3, 16, 16), torch.arange(100, 108)
    fill = Fill("random")

    def drawn(rows: slice) -> list[Tensor]:
        generators = row_generators(3, positions[rows])
        mosaics = make_mosaics(images[rows], 0.5, generators)
        return [mosaics.images, mosaics.is_mosaic, fill(mosaics.images, generators)]

    whole, parts = drawn(slice(None)), [drawn(slice(0, 4)), drawn(slice(4, 8))]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*parts, strict=True), strict=True))
    assert 0 < int(whole[1].sum()) < 8
