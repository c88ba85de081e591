"""Equality of maps, masks and losses on the device and on the CPU."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ltx.attribution.attention import has_attention
from ltx.attribution.attribute import attribute
from ltx.attribution.registry import METHODS
from ltx.attribution.support import refusal
from ltx.bench.gpu.session import Session, exact_fp32
from ltx.classifier.classifier import Classifier
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.pretraining.inr import INRPretraining
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.settings import OptimiserConfig
from ltx.runtime.errors import InputError

SECTION = "equality"
TOLERANCE = 1e-4
CHEAP: dict[str, dict[str, Any]] = {
    "rise": {"masks": 16},
    "occlusion": {"window": 64, "stride": 64},
    "extremal_perturbation": {"steps": 2},
    "inr": {"steps": 2},
    "integrated_gradients": {"steps": 4},
    "gradient_shap": {"samples": 4},
    "iia": {"steps": 2, "tolerance": 0.0},
    "iia2": {"steps": 2, "tolerance": 0.0},
    "iia3": {"steps": 2, "tolerance": 0.0},
    "dix2": {"steps": 2, "tolerance": 0.0},
    "dix3": {"steps": 2, "tolerance": 0.0},
}
"""Options that keep the time on the CPU short, and exact gradients: rounding may change the size of a basis."""
NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {"name": "unet"},
    "UNet, released": {"name": "unet", "trunk": "copy", "variant": "released"},
    "ViT": {"name": "vit"},
    "ViT, released": {"name": "vit", "trunk": "copy", "variant": "released"},
    "INR": {"name": "inr"},
    "INR, nested": {"name": "inr", "nested": True},
}
IMAGES = 2


def compare_methods(session: Session) -> None:
    """Compare the maps of every method, relative to the range of each map; fp32 without TF32, and bf16."""
    cases = []
    for model in session.models[:2]:
        reference = session.classifier(model)
        classifiers = {"fp32": _moved(reference, session), "bf16": _moved(reference, session, "bf16")}
        cases.append((reference, classifiers, session.images(reference, IMAGES)))
    for method in METHODS:
        options = {key: value for key, value in CHEAP.get(method, {}).items() if key in METHODS[method].options()}
        for reference, classifiers, images in cases:
            if not refusal(method, reference, options):
                compare = partial(_compare_method, session, method, options, reference, classifiers, images)
                session.attempt(SECTION, f"maps of {method}, {reference.name}", compare)


def _compare_method(
    session: Session,
    method: str,
    options: dict[str, Any],
    reference: Classifier,
    classifiers: dict[str, Classifier],
    images: Tensor,
) -> None:
    """Compare the maps of the classifiers on the device, by precision, with those of the reference on the CPU."""
    expected, errors = attribute(method, reference, images, 0, **options), {}
    with exact_fp32():
        for precision, classifier in classifiers.items():
            maps = attribute(method, classifier, images.to(session.device), 0, **options)
            errors[precision] = _relative_error(maps.cpu(), expected)
    _report(session, f"maps of {method}, {reference.name}", "of the map's range", errors)


def compare_networks(session: Session) -> None:
    """Compare masks and losses of every network before training."""
    for name in NETWORKS:
        session.attempt(SECTION, f"mask of {name}", partial(_compare_network, session, name))


def _compare_network(session: Session, name: str) -> None:
    settings = NETWORKS[name]
    # The ViT network reads the tokens of a vision transformer; the others fit every model.
    classifiers = map(session.classifier, session.models[:2])
    classifier = next((c for c in classifiers if settings["name"] != "vit" or has_attention(c)), None)
    if classifier is None:
        return
    model = classifier.name
    torch.manual_seed(0)
    try:
        explainer = ExplainerConfig(**settings).build(classifier).eval()
    except InputError as error:
        session.table.add(SECTION, f"mask of {name}, {model}", f"left out: {error}")
        return
    images = session.images(classifier, IMAGES)
    expected = _mask_and_loss(explainer, images)
    masks, losses = {}, {}
    with exact_fp32():
        for precision in ("fp32", "bf16"):
            moved = copy.deepcopy(explainer).to(session.device)
            moved.classifier = _moved(classifier, session, precision)
            mask, loss = _mask_and_loss(moved, images.to(session.device))
            difference = (mask.cpu() - expected[0]).abs()
            masks[precision], masks[f"{precision}_mean"] = float(difference.max()), float(difference.mean())
            losses[precision] = abs(loss - expected[1]) / max(abs(expected[1]), 1e-12)
    _report(session, f"mask of {name}, {model}", "absolute", masks)
    _report(session, f"loss of {name}, {model}", f"of the loss {expected[1]:.3f}", losses)


def _moved(classifier: Classifier, session: Session, precision: str = "fp32") -> Classifier:
    moved = copy.deepcopy(classifier).to(session.device)
    moved.precision = precision  # type: ignore[assignment]  # one of the two valid names
    return moved


@torch.no_grad()
def _mask_and_loss(explainer: MaskNetwork, images: Tensor) -> tuple[Tensor, float]:
    settings: dict[str, Any] = {"explainer": explainer, "objective": Objective(), "fill": Fill("blur"), "max_steps": 10}
    settings |= {"optimiser": OptimiserConfig(), "seed": 0}
    module = INRPretraining(areas=AreaSampling(2), **settings) if explainer.takes_areas else LTXPretraining(**settings)
    generators = [torch.Generator().manual_seed(row) for row in range(len(images))]
    areas = module.training_areas(images, generators)
    masked, verdict = module.evaluate_objective(images, generators, areas)
    return masked.mask, float(verdict.loss.mean())


def _relative_error(maps: Tensor, expected: Tensor) -> float:
    span = (expected.amax((2, 3)) - expected.amin((2, 3))).clamp_min(1e-12)
    return float(((maps - expected).abs().amax((2, 3)) / span).max())


def _report(session: Session, what: str, unit: str, errors: dict[str, float]) -> None:
    verdict = "equal" if errors["fp32"] <= TOLERANCE else f"DIFFERENT (tolerance {TOLERANCE:g})"
    text = f"{verdict}: largest difference fp32 {errors['fp32']:.1e}, bf16 {errors['bf16']:.1e} {unit}"
    if "bf16_mean" in errors:  # single pixels at the edges of a binary mask say little
        text += f"; mean difference in bf16 {errors['bf16_mean']:.1e}"
    session.table.add(SECTION, what, text, **errors)
