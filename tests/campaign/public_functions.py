"""The public functions that take tensors, as the package and its API reference list them, and a valid call of each."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ltx
from ltx.classifier.classifier import Classifier
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.fill import Fill
from ltx.metrics.perturbation import Prediction, predict
from ltx.metrics.protocol import Batch, Protocol, Settings
from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.results.explanation import Explanation
from ltx.results.masks_by_area import AreaMasks
from tests.support.processes import ROOT

TENSORS = re.compile(r"\b(Tensor|Prediction|Targets)\b")
ENTRY = re.compile(r"^::: ([\w.]+)(?:\n +options: .*members: \[(.*?)\])?", re.MULTILINE)


@dataclass(frozen=True)
class PublicFunction:
    """A function, method or constructor.

    Attributes:
        name: module and qualified name.
        function: the function.
        owner: the class of a method or constructor.
    """

    name: str
    function: Callable[..., Any]
    owner: type | None = None

    @property
    def parameters(self) -> list[inspect.Parameter]:
        every = list(inspect.signature(self.function).parameters.values())
        return every[1:] if self.owner is not None else every

    @property
    def tensors(self) -> list[str]:
        """Names of the parameters that are tensors."""
        kinds = {each.name: re.sub(r"Callable\[.*\]", "", str(each.annotation)) for each in self.parameters}
        return [name for name, kind in kinds.items() if TENSORS.search(kind)]


def public_functions() -> dict[str, PublicFunction]:
    """Every documented function that takes tensors, by name; an inherited method once, abstract ones not."""
    entries = [(f"ltx.{name}", "") for name in ltx.__all__] + ENTRY.findall((ROOT / "docs/api.md").read_text())
    found = [each for path, members in entries for each in _functions(_object(path), members)]
    return {each.name: each for each in found if each.tensors}


def _functions(item: Any, members: str = "") -> Iterator[PublicFunction]:
    if inspect.ismodule(item):
        for name, value in vars(item).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == item.__name__:
                yield from _functions(value)
    elif inspect.isclass(item):
        for name, method in inspect.getmembers(item, inspect.isfunction):
            public = name in members.split(", ") if members else name in ("__init__", "__call__") or name[0] != "_"
            is_interface = getattr(item, "_is_protocol", False) or getattr(method, "__isabstractmethod__", False)
            if public and not is_interface and method.__module__.startswith("ltx.") and item.__name__ != "ImageModel":
                yield PublicFunction(f"{method.__module__}.{method.__qualname__}", method, item)
            elif name == "__init__" and "__dataclass_fields__" in vars(item):
                yield PublicFunction(f"{item.__module__}.{item.__qualname__}.__init__", method, item)
    elif inspect.isfunction(item):
        yield PublicFunction(f"{item.__module__}.{item.__qualname__}", item)


def _object(path: str) -> Any:
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            place = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        return functools.reduce(getattr, parts[count:], place)
    raise ImportError(path)


class ValidCalls:
    """Arguments, by the names of the parameters, with which every public function works."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.classifier = Classifier(
            "resnet10t", weights="random", num_classes=4, input_size=32, class_names=["cat", "dog", "bird", "fish"]
        )
        self.images = torch.rand(2, 3, 32, 32)
        self.maps = torch.rand(2, 1, 32, 32)
        self.targets = torch.tensor([0, 1])
        self.objects = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
        self.objects[..., 8:24] = True
        self.network = ExplainerConfig(trunk="copy").build(self.classifier).eval()
        self.by_area = ExplainerConfig(name="inr").build(self.classifier).eval()
        with torch.no_grad():
            logits = self.classifier(self.images)
        unmasked = predict(self.classifier, self.images, self.targets)
        names = ["a.jpg", "b.jpg"]
        cells = torch.tensor([0, 3])
        self.batch = Batch(names, self.images, self.targets, unmasked, self.objects, self.objects, cells)
        self.masked = MaskedBatch(
            classifier=self.classifier,
            images=self.images,
            background=self.images,
            targets=self.targets,
            unmasked_logits=logits,
            scores=torch.rand(2, 1, 4, 4),
            mask=self.maps,
            teacher=self.maps,
        )
        ten, one = Prediction(torch.rand(2, 10), torch.rand(2, 10) > 0.5), Prediction(torch.rand(2), self.targets > 0)
        self.pool: dict[str, Any] = {
            **{"classifier": self.classifier, "images": self.images, "inputs": self.images, "like": self.images},
            **{"background": self.images, "maps": self.maps, "mask": self.maps, "masks": self.maps},
            **{"predicted": self.objects, "objects": self.objects, "near_objects": self.objects, "cells": cells},
            **{"inside": self.objects, "allowed": self.maps, "targets": self.targets, "logits": logits},
            **{"probability": torch.rand(2), "areas": torch.full((2, 1), 0.2), "area": torch.full((2,), 0.2)},
            **{"scores": torch.rand(2, 1, 4, 4), "random_logit": torch.rand(2), "columns": torch.rand(2, 1)},
            **{"photographs": torch.rand(2, 4, 3, 16, 16), "pixels": 1024, "names": names, "labels": ["cat", "dog"]},
            **{"sizes": torch.tensor([[1.0, 2], [5, 6]]), "step_sizes": torch.rand(2, 13) + 2, "method": "gradcam"},
            **{"highest": ten, "lowest": ten, "transfer_lowest": ten, "unmasked": unmasked, "masked": one},
            **{"seed": one, "full": one, "transfer_kept": one, "batch": self.batch, "count": 4, "height": 32},
            **{"information": Prediction(torch.rand(2, 13), torch.rand(2, 13) > 0.5), "width": 32, "steps": 1},
            **{"folder": folder, "config": {}, "tensors": {"a": torch.rand(3), "b": torch.rand(2, 2)}},
            **{"explainer": self.network, "starts": [self.by_area, ExplainerConfig(name="inr").build(self.classifier)]},
            **{"ask": lambda areas, size: self.maps.expand(-1, areas.shape[1], -1, -1), "positive": torch.ones(2, 9)},
            "explain": lambda classifier, images, targets: torch.rand(len(images), 1, *images.shape[-2:]),
        }

    def owner(self, function: PublicFunction) -> Any:
        """An object of the method's class."""
        kind = function.owner
        if kind is None or function.name.endswith(".__init__"):
            return None
        if issubclass(kind, Protocol):
            return kind(Settings(second=self.classifier))
        known = (self.classifier, self.network, self._masks_by_area(), self._explanation(), Fill("blur"))
        return next((each for each in known if isinstance(each, kind)), None) or kind()

    def arguments(self, function: PublicFunction, owner: Any) -> dict[str, Any]:
        """The arguments of a valid call.

        Raises:
            KeyError: the pool has no value for a parameter.
        """
        special: dict[str, Any] = {}
        if hasattr(owner, "columns"):
            rows = torch.rand(2, owner.columns, dtype=torch.float64)
            special |= {"rows": rows, "cascade": rows.float(), "stability": rows.float()}
            special |= {"weights": torch.rand(3, 2, dtype=torch.float64), "columns": rows.float()}
        if isinstance(owner, Protocol):
            special["prepared"] = owner.prepare(self.classifier, self.batch)
        if "objectives" in function.name:
            with torch.no_grad():
                special |= {"batch": self.masked, "logits": classify(self.masked, owner.masks(self.masked) or {})}
        special |= {
            "ltx.metrics.localisation.average_precision": {"scores": torch.rand(2, 9)},
            "ltx.metrics.standard.area": {"probability": torch.rand(2, 21)},
            "ltx.metrics.sensitivity.other_classes": {"seed": 0},
            "ltx.metrics.information.to_images": {"pixels": self.images.permute(0, 2, 3, 1).byte().numpy()},
            "ltx.attribution.inr.fit_inr": {"fit": _one_step()},
        }.get(function.name, {})
        every = self.pool | special
        extra = {"steps", "fit"} & every.keys()
        return {
            each.name: every[each.name]
            for each in function.parameters
            if each.name in extra
            or each.name in function.tensors
            or (each.default is each.empty and each.kind is not each.VAR_KEYWORD)
        }

    def _masks_by_area(self) -> AreaMasks:
        pool = self.pool
        return AreaMasks(self.classifier, self.images, self.images, self.targets, pool["probability"], pool["ask"])

    def _explanation(self) -> Explanation:
        return Explanation(
            images=self.images,
            maps=self.maps,
            targets=self.targets,
            labels=["cat", "dog"],
            probability=self.pool["probability"],
            method="toy",
            by_area=self._masks_by_area(),
        )


def _one_step() -> Any:
    from ltx.attribution.inr import INRFit

    return INRFit(steps=1)
