"""Part 1, continued: wrong shapes, types and values given to public functions from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import ltx
from ltx.attribution.attribute import attribute
from ltx.masking.fill import Fill, keep
from ltx.metrics.perturbation import curves
from ltx.results.explanation import Explanation
from tests.campaign.arena import SEED, Arena
from tests.campaign.oracle import limited

pytestmark = pytest.mark.campaign

SHAPES = [(), (0,), (3,), (32, 32), (3, 32, 32), (1, 3, 32, 32), (2, 3, 32, 32), (2, 1, 32, 32), (2, 3, 31, 33)]
SHAPES += [(0, 3, 32, 32), (2, 4, 32, 32), (1, 2, 3, 32, 32), (2, 3, 0, 32), (2, 3, 1, 1)]
TYPES = [torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool, torch.complex64]
VALUES = [0.5, 0.0, -3.0, 255.0, float("nan"), float("inf")]


def tensor(shape: tuple[int, ...], kind: torch.dtype, value: float) -> Tensor:
    return torch.full(shape, value).to(kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)


tensors = st.builds(tensor, st.sampled_from(SHAPES), st.sampled_from(TYPES), st.sampled_from(VALUES))
targets = st.one_of(
    st.none(),
    st.integers(-5, 9),
    st.sampled_from(["cat", "cta", "", "predicted"]),
    st.lists(st.integers(-2, 6), max_size=3),
    tensors,
    st.floats(),
    st.booleans(),
)


@pytest.fixture(scope="module")
def functions(arena: Arena) -> dict[str, Callable[[Any, Any], Any]]:
    """Public functions of images and targets."""
    classifier = ltx.Classifier(
        "resnet10t",
        weights=arena.root / "weights.safetensors",
        num_classes=4,
        input_size=32,
        class_names=["cat", "b", "c", "d"],
    )
    explainer = ltx.load(arena.root / "checkpoint", weights=str(arena.root / "weights.safetensors"))
    zeros = torch.zeros(2, 3, 32, 32)
    return {
        "Classifier": lambda images, target: classifier(images),
        "attribute gradcam": lambda images, target: attribute("gradcam", classifier, images, target),
        "attribute integrated_gradients": lambda images, target: attribute(
            "integrated_gradients", classifier, images, target, steps=2
        ),
        "explain": lambda images, target: explainer.explain(images, target),
        "finetune": lambda images, target: ltx.finetune(explainer, images, target, steps=1),
        "keep": lambda images, target: keep(images, zeros[:, :1], zeros),
        "Fill": lambda images, target: Fill("blur")(images),
        "Explanation": lambda images, target: Explanation(
            images=images,
            maps=images[:, :1],
            targets=torch.as_tensor(target),
            labels=["cat"] * len(images),
            probability=torch.ones(len(images)),
            method="toy",
        ).plot(0),
        "curves": lambda images, target: curves(classifier, zeros, images, torch.zeros(2, dtype=torch.long)),
    }


NAMES = ["Classifier", "attribute gradcam", "attribute integrated_gradients", "explain", "finetune", "keep", "Fill"]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_tensors(functions: dict[str, Callable[[Any, Any], Any]], name: str) -> None:
    found: list[str] = []

    @seed(SEED)
    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(tensors, targets)
    def check(images: Tensor, target: Any) -> None:
        try:
            with limited(60):
                result = functions[name](images, target)
        except (ValueError, TypeError) as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                found.append(f"{tuple(images.shape)} {images.dtype} {target!r}: long error {error!r}")
        except RuntimeError as error:
            # torch names the two types; a float64 classifier may be given float64 images.
            if not (images.dtype == torch.float64 and "type" in str(error)):
                found.append(f"{tuple(images.shape)} {images.dtype} {type(target).__name__}: {error}"[:300])
        except Exception as error:
            kind = f"{images.dtype} {str(target)[:40]!r}: {type(error).__name__}"
            found.append(f"{tuple(images.shape)} {kind}: {error}"[:300])
        else:
            values = result if isinstance(result, Tensor) else getattr(result, "maps", None)
            if isinstance(values, Tensor) and values.numel() and images.ndim and len(values) != len(images):
                found.append(f"{tuple(images.shape)} {images.dtype} {target!r}: result of shape {tuple(values.shape)}")

    check()
    assert not found, f"{len(found)} faults:\n" + "\n".join(found[:8])
