"""Sanity checks: a map must change with the classifier's parameters and with the target class.

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
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

STAGES = 4


class SensitivityProtocol(Protocol):
    """Compare maps with maps of a classifier whose layers are randomised from the top, and of another class."""

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
        changed = explain(classifier, batch.images, others)
        check_maps(batch.images, changed, batch.names)
        return {"cascade": torch.stack(similarity, 1), "random_logit": rank_correlation(maps, changed)}


def cascade(classifier: Classifier, stages: int, seed: int) -> Iterator[Classifier]:
    """Yield a copy of a classifier with 1/stages, 2/stages, … all of its layers randomised, starting at the output.

    A layer is a module that directly owns parameters. Each of its parameters is shuffled by a seeded permutation. This
    destroys what the layer learned but keeps its scale, so that activations and gradients stay finite at any depth.

    The same copy is modified at each step: use it before requesting the next one.
    """
    changed = copy.copy(classifier)  # the same preprocessing and names around another model
    changed.model = copy.deepcopy(classifier.model)
    changed._folded = None  # the folded model still contains the trained parameters
    layers = [
        (name, module) for name, module in changed.model.named_modules() if any(True for _ in module.parameters(False))
    ]
    # Parameters of the root module (position embeddings, class tokens) belong to the input and come first.
    layers.reverse()
    done = 0
    for stage in range(1, stages + 1):
        upto = round(stage * len(layers) / stages)
        for name, module in layers[done:upto]:
            shuffle(module, name, seed)
        done = upto
        changed.model.train().eval()  # LeViT caches tensors derived from parameters until it enters training mode
        yield changed


@torch.no_grad()
def shuffle(module: nn.Module, name: str, seed: int) -> None:
    """Permute the entries of each parameter that the module directly owns."""
    for key, parameter in module.named_parameters(recurse=False):
        order = torch.randperm(parameter.numel(), generator=generator(seed, name, key)).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


@takes(targets="int64 [B]")
def other_classes(targets: Tensor, count: int, seed: int, names: list[str]) -> Tensor:
    """Draw a random class `[B]` other than the target for each image; the draw depends on the image's name.

    Raises:
        InputError: the classifier has only one class, or there is not one name for each target.
    """
    if len(names) != len(targets):
        raise InputError(f"{len(targets)} targets for {len(names)} names; give one for each image")
    if count < 2:
        raise InputError("protocol=sensitivity explains a second class, but the classifier has one; leave it out")
    draws = [int(torch.randint(count - 1, (1,), generator=generator(seed, "logit", name))) for name in names]
    return (targets + 1 + tensor_on(targets.device, draws)) % count


class CascadingRandomisation(PerImageMetric):
    """Mean rank correlation of the map with the maps of the randomised classifiers, -1…1."""

    name = "Cascade"
    meaning = "rank correlation with maps of the randomised classifier, mean over a cascade, -1...1"
    protocol = "sensitivity"
    decimals = 3
    citation = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018"
    higher_is_better = False
    columns = STAGES

    @takes(cascade="float [B, .columns]")
    def update(self, cascade: Tensor) -> None:
        """Add rank correlations `[B, 4]`; the number of randomised layers grows from column to column."""
        self.append(cascade)

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        return rows.mean(1)


class RandomLogit(PerImageMetric):
    """Rank correlation of the map with the map of a random other class, -1…1."""

    name = "RandomLogit"
    meaning = "rank correlation with the map of a random other class, -1...1"
    protocol = "sensitivity"
    decimals = 3
    citation = "Sixt et al., When Explanations Lie, ICML 2020"
    higher_is_better = False

    @takes(random_logit="float [B]")
    def update(self, random_logit: Tensor) -> None:
        """Add rank correlations `[B]`."""
        self.append(random_logit)
