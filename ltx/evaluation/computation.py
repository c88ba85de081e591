"""Computation of pieces: the maps and metric rows of each method on one chunk of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.evaluation.pieces import Piece
from ltx.evaluation.samples import Loaded
from ltx.metrics.perturbation import check_maps, is_constant, read_logits
from ltx.metrics.protocol import Batch, update
from ltx.results.pictures import scaled
from ltx.runtime.errors import InputError

if TYPE_CHECKING:  # the name of a piece depends on the modules imported here, see `ltx.evaluation.plan.HARNESS`
    from ltx.evaluation.methods import Method
    from ltx.evaluation.plan import Evaluation


def pieces(
    evaluation: Evaluation, chunk: int, loaded: Loaded, methods: Sequence[tuple[Method, Path]]
) -> Iterator[tuple[Path, Piece]]:
    """Yield the result of each method on one chunk; everything that does not depend on the map is computed once."""
    protocols = evaluation.protocols
    if not loaded.names:
        for _, path in methods:
            yield path, Piece([], [], [], loaded.skipped, {})
        return
    batch = as_batch(evaluation, loaded)
    prepared = [protocol.prepare(evaluation.classifier, batch) for protocol in protocols]
    shown = max(0, evaluation.config.gallery - sum(evaluation.samples.sizes()[:chunk]))
    for method, path in methods:

        def explain(classifier: Classifier, images: Tensor, targets: Tensor, method: Method = method) -> Tensor:
            return method.make(classifier, images, targets, batch).detach().to(images)

        try:
            maps = explain(evaluation.classifier, batch.images, batch.targets)
            check_maps(batch.images, maps, batch.names)
            rows = {}
            for protocol, known in zip(protocols, prepared, strict=True):
                measured = protocol.measure(evaluation.classifier, batch, maps, known, explain)
                for metric in protocol.metrics():
                    update(metric.to(maps.device), measured)
                    rows[metric.key] = metric.all_rows().cpu().numpy()
        except InputError as error:
            raise InputError(f"method {method.label}: {error}") from error
        yield (
            path,
            Piece(
                names=batch.names,
                targets=batch.targets.tolist(),
                probabilities=batch.unmasked.probability.tolist(),
                skipped=loaded.skipped,
                rows=rows,
                maps=_for_gallery(maps[:shown]),
                constant=is_constant(maps).tolist(),
            ),
        )


def _for_gallery(maps: Tensor) -> np.ndarray:
    """Maps `[G, 1, H, W]` scaled for a picture, float16 `[G, H, W]`."""
    values = maps[:, 0].float().cpu().numpy()
    return np.stack([scaled(each, constant=0.5) for each in values]).astype(np.float16) if len(values) else values


@torch.no_grad()
def as_batch(evaluation: Evaluation, loaded: Loaded) -> Batch:
    """Move a loaded chunk to the device and compute its targets and unmasked predictions in one forward pass."""
    classifier, config = evaluation.classifier, evaluation.config
    images = loaded.images.to(classifier.device)
    logits = torch.cat([classifier(part) for part in images.split(evaluation.max_batch)])
    if loaded.classes is not None:
        targets = loaded.classes.to(images.device)
    elif config.target == "label":
        targets = classifier.targets(loaded.labels, logits)
    else:
        targets = classifier.targets(config.target, logits)
    unmasked = read_logits(classifier, logits, targets)

    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(images.device)

    objects, near, cells = moved(loaded.objects), moved(loaded.near_objects), moved(loaded.cells)
    return Batch(loaded.names, images, targets, unmasked, objects, near, cells)
