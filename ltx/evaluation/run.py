"""An evaluation: every method on every chunk of images, divided over ranks, resumable piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ltx.classifier.classifier import Classifier
from ltx.evaluation.methods import Method
from ltx.evaluation.pieces import Piece
from ltx.evaluation.plan import Evaluation, build
from ltx.evaluation.samples import Loaded
from ltx.evaluation.score_files import write_report
from ltx.evaluation.settings import EvaluationConfig
from ltx.metrics.perturbation import Prediction, check_maps, min_max, read_logits
from ltx.metrics.protocol import Batch, update
from ltx.runtime.errors import InputError
from ltx.runtime.progress import progress_bar
from ltx.runtime.ranks import launched_ranks

# -- working -------------------------------------------------------------------------------------------------------


def work(evaluation: Evaluation, rank: int = 0, ranks: int = 1) -> None:
    """Compute this rank's share of the pieces that are not there yet."""
    every = [(chunk, method) for chunk in range(len(evaluation.samples)) for method in evaluation.methods]
    # Contiguous shares in order of chunks: a chunk's unmasked forward pass is run once for all its methods.
    mine = every[rank * len(every) // ranks : (rank + 1) * len(every) // ranks]
    missing = [(c, m, path) for c, m in mine if not (path := evaluation.piece_path(m, c)).is_file()]
    sizes = evaluation.samples.sizes()
    chunks = [(chunk, [(m, path) for _, m, path in group]) for chunk, group in groupby(missing, lambda item: item[0])]
    with progress_bar("evaluating", rank == 0) as progress, ThreadPoolExecutor(1) as reader:
        total, done = sum(sizes[chunk] for chunk, _ in mine), sum(sizes[c] for c, _ in mine)
        done -= sum(sizes[chunk] for chunk, _, _ in missing)
        task = progress.add_task("", total=total, completed=done, rate="")
        waiting = reader.submit(evaluation.samples.load, chunks[0][0]) if chunks else None
        for place, (chunk, methods) in enumerate(chunks):
            assert waiting is not None
            loaded = waiting.result()
            if place + 1 < len(chunks):
                waiting = reader.submit(evaluation.samples.load, chunks[place + 1][0])
            for path, piece in pieces(evaluation, chunk, loaded, methods):
                evaluation.store.save(path, piece)
                speed = progress.tasks[task].speed
                progress.update(task, advance=sizes[chunk], rate=f"{speed:.1f} maps/s" if speed else "")


def pieces(
    evaluation: Evaluation, chunk: int, loaded: Loaded, methods: Sequence[tuple[Method, Path]]
) -> Iterator[tuple[Path, Piece]]:
    """The result of each method on one chunk; what does not depend on the map is computed once."""
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
                maps=min_max(maps[:shown])[:, 0].half().cpu().numpy(),
            ),
        )


@torch.no_grad()
def as_batch(evaluation: Evaluation, loaded: Loaded) -> Batch:
    """A loaded chunk on the device, with its targets and its unmasked forward pass: one pass gives both."""
    classifier, config = evaluation.classifier, evaluation.config
    images = loaded.images.to(classifier.device)
    logits = torch.cat([classifier(part) for part in images.split(evaluation.max_batch)])
    if loaded.classes is not None:
        targets = loaded.classes.to(images.device)
    elif config.target == "label":
        targets = classifier.targets(loaded.labels, logits)
    else:
        targets = classifier.targets(config.target, logits)
    unmasked: Prediction = read_logits(classifier, logits, targets)

    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(images.device)

    objects, near, cells = moved(loaded.objects), moved(loaded.near_objects), moved(loaded.cells)
    return Batch(loaded.names, images, targets, unmasked, objects, near, cells)


# -- ranks ---------------------------------------------------------------------------------------------------------


def evaluate(config: EvaluationConfig) -> dict[str, Any] | None:
    """Run an evaluation, alone or as one of several ranks under `torchrun`, and write its results to `config.out`.

    Ranks share the folder `config.out` (on several nodes: a shared file system) and write their pieces into it.

    Returns:
        What `scores.json` holds; None on ranks other than the first.

    Raises:
        InputError: settings that cannot be used, no image that can be read, or a map with NaN.
    """
    rank, ranks = launched_ranks()
    started = ranks > 1 and not distributed.is_initialized()
    if started:
        # Only waiting is shared; the pieces on disk carry the results. Ranks may finish hours apart.
        distributed.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        evaluation = build(config, rank)
        work(evaluation, rank, ranks)
        if ranks > 1:
            distributed.barrier()
        return write_report(evaluation) if rank == 0 else None
    finally:
        if started:
            distributed.destroy_process_group()
