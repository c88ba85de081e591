"""Run an evaluation: every method on every chunk of images, divided over ranks, resumable by piece."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import groupby
from typing import Any

from torch import distributed

from ltx.evaluation.computation import pieces
from ltx.evaluation.plan import Evaluation, build
from ltx.evaluation.score_files import write_report
from ltx.evaluation.settings import EvaluationConfig
from ltx.runtime.progress import progress_bar
from ltx.runtime.ranks import launched_ranks

# -- working -------------------------------------------------------------------------------------------------------


def work(evaluation: Evaluation, rank: int = 0, ranks: int = 1) -> None:
    """Compute the missing pieces of this rank's share of the work."""
    pairs = [(chunk, method) for chunk in range(len(evaluation.samples)) for method in evaluation.methods]
    # Shares are contiguous in chunks, so that the unmasked forward pass of a chunk serves all its methods.
    share = pairs[rank * len(pairs) // ranks : (rank + 1) * len(pairs) // ranks]
    missing = [(c, m, path) for c, m in share if not (path := evaluation.piece_path(m, c)).is_file()]
    sizes = evaluation.samples.sizes()
    chunks = [(chunk, [(m, path) for _, m, path in group]) for chunk, group in groupby(missing, lambda item: item[0])]
    with progress_bar("evaluating", rank == 0) as progress, ThreadPoolExecutor(1) as reader:
        total = sum(sizes[chunk] for chunk, _ in share)
        done = total - sum(sizes[chunk] for chunk, _, _ in missing)
        task = progress.add_task("", total=total, completed=done, rate="")
        pending = reader.submit(evaluation.samples.load, chunks[0][0]) if chunks else None
        for place, (chunk, methods) in enumerate(chunks):
            assert pending is not None
            loaded = pending.result()
            if place + 1 < len(chunks):
                pending = reader.submit(evaluation.samples.load, chunks[place + 1][0])
            for path, piece in pieces(evaluation, chunk, loaded, methods):
                evaluation.store.save(path, piece)
                speed = progress.tasks[task].speed
                progress.update(task, advance=sizes[chunk], rate=f"{speed:.1f} maps/s" if speed else "")


# -- ranks ---------------------------------------------------------------------------------------------------------


def evaluate(config: EvaluationConfig) -> dict[str, Any] | None:
    """Run an evaluation, in one process or as a rank under `torchrun`, and write its results to `config.out`.

    All ranks write their pieces to the folder `config.out`, which must be shared between nodes.

    Returns:
        The content of `scores.json`; None on ranks other than the first.

    Raises:
        InputError: invalid settings, no readable image, or a map with NaN.
    """
    rank, ranks = launched_ranks()
    started = ranks > 1 and not distributed.is_initialized()
    if started:
        # Ranks only synchronise here; results are exchanged through files. Ranks may finish hours apart.
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
