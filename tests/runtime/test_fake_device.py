"""Networks, terms, fills and steps run on a fake CUDA device: mixing devices raises, synchronisations are named."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx import Classifier
from ltx.data.folder import FolderData
from ltx.data.training_images import StreamSettings
from ltx.explainers import mask_network
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import EXPLAINERS, ExplainerConfig, network_class
from ltx.finetuning.finetune import finetune, resolve
from ltx.finetuning.loop import Chunk, draw_scores, step_loss
from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.area_threshold import masks_of_area
from ltx.masking.fill import FILLS, Fill
from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.objectives.settings import TERMS, ObjectiveConfig
from ltx.pretraining.inr import INRPretraining
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.recipe import recipe_objective
from ltx.pretraining.settings import OptimiserConfig
from tests.support.fake_device import CUDA, FakeCuda, fake_cuda

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("resnet10t", {}),
    "unet released": ("resnet10t", {"trunk": "copy", "variant": "released"}),
    "unet with another trunk": ("test_vit", {"trunk": "resnet10t"}),
    "vit": ("test_vit", {}),
    "vit released": ("test_vit", {"trunk": "copy", "variant": "released"}),
    "inr": ("resnet10t", {"name": "inr", "points": 8}),
    "inr nested": ("test_vit", {"name": "inr", "points": 8, "nested": True}),
    "inr of one image": ("resnet10t", {"name": "inr", "trunk": "none", "points": 8}),
}


def network(name: str, precision: str = "fp32") -> MaskNetwork:
    model, settings = NETWORKS[name]
    size = 160 if model == "test_vit" else 64
    classifier = Classifier(model, weights="random", num_classes=5, input_size=size, precision=precision)  # type: ignore[arg-type]
    return ExplainerConfig(**settings).build(classifier).eval()


def on_gpu(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cuda" for tensor in tensors)


def test_a_mixture_of_devices_raises_and_synchronisations_are_counted() -> None:
    with fake_cuda(assumed=0.5) as device:
        x = device.rand(2, 3)
        with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
            x + torch.rand(2, 3)
        assert (float(x.sum()), x.tolist()) == (0.5, [[0.5] * 3] * 2)
        assert list(device.synchronisations.values()) == [2]
        torch.zeros(2).to(x, non_blocking=True)
        assert device.synchronisations.total() == 2
        torch.zeros(2).to(x)
        x.cpu()
        assert device.synchronisations.total() == 4
        x[torch.zeros(2, dtype=torch.long)]
        torch.tensor([1.0], device=x.device)
        assert device.synchronisations.total() == 6


def test_every_network_and_training_step_is_tested() -> None:
    """A network of the registry, a variant of one or a LightningModule that is missing from this file."""
    networks = [network(name) for name in NETWORKS]
    assert {type(tested) for tested in networks} == {network_class(name) for name in EXPLAINERS}
    variants = next(field.metadata["choices"] for field in fields(ExplainerConfig) if field.name == "variant")
    assert {tested.variant for tested in networks} == {*variants} - {None}
    modules = [LTXPretraining, *LTXPretraining.__subclasses__()]
    assert {module for module in modules if module.__module__.startswith("ltx.")} == {LTXPretraining, INRPretraining}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_pass_never_waits(name: str, precision: str) -> None:
    explainer = network(name, precision)
    with fake_cuda() as device, torch.no_grad():
        moved, images = device.move(explainer), device.rand(2, 3, *explainer.classifier.input_size)
        mask = moved(images)
        assert mask.shape == (2, 1, *explainer.classifier.input_size)
        assert mask.dtype == torch.float32
        assert on_gpu(mask)
        assert not device.synchronisations


def batch_on(device: FakeCuda, classifier: Classifier, count: int = 2) -> MaskedBatch:
    """A batch that has what every term reads."""
    size = classifier.input_size
    images = device.rand(count, 3, *size)
    return MaskedBatch(
        classifier=device.move(classifier),
        images=images,
        background=device.rand(count, 3, *size),
        targets=device.classes(count),
        unmasked_logits=device.rand(count, classifier.num_classes),
        scores=device.rand(count, 1, 8, 8),
        mask=device.rand(count, 1, *size),
        generator=torch.Generator(),
        teacher=device.rand(count, 1, 4, 4),
        elsewhere=device.rand(count, 1, *size),
        areas=device.rand(count),
        allowed=device.rand(count, 1, *size),
    )


def variants(term: str) -> list[dict[str, Any]]:
    """The settings of a term that are tested: the defaults, every choice of every field, and every switch."""
    settings = getattr(ObjectiveConfig(), term)
    values = {
        field.name: (field.metadata["choices"] or (), getattr(settings, field.name)) for field in fields(settings)
    }
    choices = [{name: choice} for name, (allowed, _) in values.items() for choice in allowed]
    switches = [{name: not default} for name, (_, default) in values.items() if isinstance(default, bool)]
    return [{}, *choices, *switches, *{"ranking": [{"areas": 2, "noise": 0.1}]}.get(term, [])]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_every_term_stays_on_the_device(term: str, head: str) -> None:
    classifier = Classifier("resnet10t", weights="random", num_classes=5, input_size=64, head=head)  # type: ignore[arg-type]
    nothing = ObjectiveConfig(**{name: replace(getattr(ObjectiveConfig(), name), weight=0.0) for name in TERMS})
    for settings in variants(term):
        config = replace(nothing, **{term: replace(getattr(nothing, term), weight=1.0, **settings)})
        with fake_cuda() as device:
            verdict = Objective(config)(batch_on(device, classifier))
            assert list(verdict.terms) == [term]
            assert verdict.loss.shape == (2,)
            assert on_gpu(verdict.loss, verdict.terms[term], *verdict.logits.values())
            assert not device.synchronisations, settings


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fill", [*FILLS, "random"])
def test_every_fill_stays_on_the_device(fill: str, shared: bool) -> None:
    generators = [torch.Generator(), torch.Generator()]
    with fake_cuda() as device:
        images = device.rand(2, 3, 32, 32)
        for source in (None, torch.Generator(), generators):
            background = Fill(fill)(images, source, shared)
            assert background.shape == images.shape
            assert on_gpu(background)
        assert not device.synchronisations


@pytest.mark.parametrize("limited", [False, True])
def test_masks_of_an_area_stay_on_the_device(limited: bool) -> None:
    with fake_cuda() as device:
        images = device.rand(2, 3, 32, 32)
        areas = AreaSampling(3).draw(images, torch.Generator(), shared=True)
        allowed = device.rand(2, 1, 32, 32) if limited else None
        masks = masks_of_area(device.rand(2, 3, 32, 32), areas, 0.1, allowed)
        assert masks.shape == (2, 3, 32, 32)
        assert on_gpu(masks)
        assert not device.synchronisations


@pytest.mark.parametrize("name", ["unet", "vit", "inr"])
def test_the_forward_pass_of_a_training_step_never_waits(name: str) -> None:
    explainer = network(name)
    objective = Objective(recipe_objective())
    config: dict[str, Any] = {"explainer": explainer, "objective": objective, "fill": Fill("random"), "max_steps": 10}
    config |= {"optimiser": OptimiserConfig(), "seed": 0}
    module = INRPretraining(areas=AreaSampling(2), **config) if explainer.takes_areas else LTXPretraining(**config)
    generators = [torch.Generator() for _ in range(4)]
    with fake_cuda() as device:
        moved, pixels = device.move(module), device.rand(4, 3, *explainer.classifier.input_size)
        areas = moved.training_areas(pixels, generators)
        teacher = (pixels[:, :1], device.classes(4))
        batch, verdict = moved.evaluate_objective(pixels, generators, areas, teacher=teacher)
        assert on_gpu(batch.mask, verdict.loss)
        assert not device.synchronisations


@pytest.mark.parametrize("name", ["unet", "vit", "inr nested"])
def test_a_training_step_waits_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the check that the loss is finite. Seeds, mosaics and logged values need no wait."""
    explainer = network(name)
    config: dict[str, Any] = {"explainer": explainer, "objective": Objective(), "fill": Fill("random"), "max_steps": 10}
    config |= {"optimiser": OptimiserConfig(), "seed": 0, "mosaic": 0.5}
    module = INRPretraining(areas=AreaSampling(2), **config) if explainer.takes_areas else LTXPretraining(**config)
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr("ltx.pretraining.ltx.mean_over_ranks", lambda module, log: log)
    monkeypatch.setattr(LTXPretraining, "log_dict", lambda module, log, **options: logged.update(log))
    data = FolderData("unused", StreamSettings(explainer.classifier.input_size, 4, 1))
    with fake_cuda() as device:
        moved = device.move(module)
        pixels = torch.empty(4, 3, *explainer.classifier.input_size, dtype=torch.uint8)
        batch = {"image": pixels, "position": torch.arange(4), "index": torch.arange(4), "name": list("abcd")}
        batch = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, CUDA, 0), 0)
        assert on_gpu(moved.training_step(batch, 0), *logged.values())
        reads = {place.split(":")[0]: n for place, n in device.synchronisations.items()}
        assert reads == {"ltx/pretraining/ltx.py": 1}, device.synchronisations


@pytest.mark.parametrize("name", ["unet", "unet released", "vit", "inr nested"])
def test_the_forward_pass_of_a_finetuning_step_never_waits(name: str) -> None:
    explainer = network(name)
    scope = "all" if explainer.trunk is not None else "decoder"
    settings = resolve(explainer, 1, FinetuneSettings(scope=scope, fill="random", jitter=2))
    with fake_cuda(assumed=0.5) as device:  # the jitter's draws lie in [0, 1)
        moved, images = device.move(explainer), device.rand(3, 3, *explainer.classifier.input_size)
        unmasked_logits, features = moved.predict_and_encode(images)
        copies = Copies(moved, scope, 3, features, images)
        assert copies.batched
        chunk = Chunk(images, device.classes(3), unmasked_logits, device.rand(3, 1, *images.shape[-2:]))
        generator = torch.Generator()
        scores, areas = draw_scores(copies, chunk, settings.areas, generator)
        loss = step_loss(copies, chunk, scores, areas, settings, generator)
        assert loss.shape == (3,)
        assert on_gpu(scores, loss)
        assert not device.synchronisations


def test_the_seconds_of_an_explanation_are_those_of_finished_work(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = network("unet")
    events: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", events.append)
    monkeypatch.setattr(mask_network, "time", SimpleNamespace(perf_counter=lambda: events.append("clock") or 0.0))
    with fake_cuda() as device:
        device.move(explainer).explain(device.rand(2, 3, *explainer.classifier.input_size), 0)
    assert events == ["clock", CUDA, "clock"]


@pytest.mark.parametrize("name", ["unet", "inr nested"])
def test_synchronisations_of_a_whole_finetuning_run_do_not_grow_with_its_chunks(name: str) -> None:
    """Without steps, as gradients need a driver: validation, the check for NaN and the labels wait for the GPU."""
    explainer = network(name)
    counts = []
    for chunks in (1, 2):
        with fake_cuda() as device:
            moved, images = device.move(explainer), device.rand(2, 3, *explainer.classifier.input_size)
            maps = finetune(moved, images, steps=0, settings=FinetuneSettings(max_batch=2 // chunks)).maps
            assert on_gpu(maps)
            places = {place.rsplit(":", 1)[0] for place in device.synchronisations}
            allowed = {"classifier/classifier.py", "finetuning/loop.py", "results/building.py"}
            allowed |= {"results/masks_by_area.py"} if explainer.takes_areas else set()
            assert places <= {f"ltx/{place}" for place in allowed}, device.synchronisations
            counts.append(device.synchronisations.total())
    assert counts[1] - counts[0] == 1, "one check for NaN per chunk"
