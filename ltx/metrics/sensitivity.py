"""Sanity checks: a map must change when the classifier, or the class it is asked about, does.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018; Sixt et al., When Explanations Lie, ICML 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import check_maps
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol, generator
from ltx.metrics.rank_correlation import rank_correlation
from ltx.runtime.errors import InputError

STAGES = 4


class SensitivityProtocol(Protocol):
    """Maps of the classifier with more and more of its layers randomised from the top, and of another class."""

    name = "sensitivity"

    def metrics(self) -> list[PerImageMetric]:
        return [CascadingRandomisation(), RandomLogit()]

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        check_maps(batch.images, maps, batch.names)
        similarity = []
        for randomised in cascade(classifier, STAGES, self.settings.seed):
            changed = explain(randomised, batch.images, batch.targets)
            check_maps(batch.images, changed, batch.names)
            similarity.append(rank_correlation(maps, changed))
        others = other_classes(batch.targets, classifier.num_classes, self.settings.seed, batch.seed_names)
        asked = explain(classifier, batch.images, others)
        check_maps(batch.images, asked, batch.names)
        return {"cascade": torch.stack(similarity, 1), "random_logit": rank_correlation(maps, asked)}


def cascade(classifier: Classifier, stages: int, seed: int) -> Iterator[Classifier]:
    """Copies of a classifier with 1/stages, 2/stages, … all of its layers randomised, the output first.

    A layer is a module with parameters of its own. Each of its parameters is shuffled by a seeded permutation: it loses
    what it learned and keeps its scale, so that activations and gradients stay finite through any depth. It is one
    copy that changes from step to step: use each before asking for the next.
    """
    changed = copy.copy(classifier)  # the same preprocessing and names around another model
    changed.model = copy.deepcopy(classifier.model)
    changed._folded = None  # it would run what the classifier has learned
    layers = [
        (name, module) for name, module in changed.model.named_modules() if any(True for _ in module.parameters(False))
    ]
    # The root's own tensors (position embeddings, class tokens) belong to the input and are registered first.
    layers.reverse()
    done = 0
    for stage in range(1, stages + 1):
        upto = round(stage * len(layers) / stages)
        for name, module in layers[done:upto]:
            shuffle(module, name, seed)
        done = upto
        changed.model.train().eval()  # some (LeViT) keep what they made of a parameter until they are trained
        yield changed


@torch.no_grad()
def shuffle(module: nn.Module, name: str, seed: int) -> None:
    """Permute the entries of each of a module's own parameters."""
    for key, parameter in module.named_parameters(recurse=False):
        order = torch.randperm(parameter.numel(), generator=generator(seed, name, key)).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def other_classes(targets: Tensor, count: int, seed: int, names: list[str]) -> Tensor:
    """A random class `[B]` for each image that is not its target; the draw depends on the image's name."""
    if count < 2:
        raise InputError("protocol=sensitivity asks about another class, and the classifier has one; leave it out")
    draws = [int(torch.randint(count - 1, (1,), generator=generator(seed, "logit", name))) for name in names]
    return (targets + 1 + torch.tensor(draws, device=targets.device)) % count


class CascadingRandomisation(PerImageMetric):
    """Mean rank correlation of the map with those of the randomised classifiers, -1…1."""

    name = "Cascade"
    meaning = "rank correlation with maps of the randomised classifier, mean over a cascade, -1...1"
    protocol = "sensitivity"
    decimals = 3
    citation = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018"
    higher_is_better = False
    columns = STAGES

    def update(self, cascade: Tensor) -> None:
        """Add rank correlations `[B, 4]`, with more layers randomised from column to column."""
        self.append(cascade)

    def scores(self, rows: Tensor) -> Tensor:
        return rows.mean(1)


class RandomLogit(PerImageMetric):
    """Rank correlation of the map with that of another, random class, -1…1."""

    name = "RandomLogit"
    meaning = "rank correlation with the map of a random other class, -1...1"
    protocol = "sensitivity"
    decimals = 3
    citation = "Sixt et al., When Explanations Lie, ICML 2020"
    higher_is_better = False

    def update(self, random_logit: Tensor) -> None:
        """Add rank correlations `[B]`."""
        self.append(random_logit)
