"""Scores of an evaluation: the mean of each method and metric with its interval, and paired differences."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ltx.evaluation.intervals import interval, weight_blocks
from ltx.evaluation.pieces import Piece
from ltx.evaluation.plan import Evaluation
from ltx.metrics.per_image import PerImageMetric
from ltx.runtime.errors import InputError


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval; NaN if every image was skipped."""

    mean: float
    low: float
    high: float


@dataclass
class Results:
    """Results of an evaluation, as shown in its files.

    Attributes:
        names, targets, probabilities: name, target class and `p_y` of the `n` images.
        skipped: files that were skipped, with the reason.
        metrics: in the order of the tables.
        rows: by method label and metric key, float64 `[n, C]`.
        maps: by method label, maps of the first images, float16 `[G, H, W]`.
        constant: by method label, the images for which the map is constant; controls are left out.
        photographs: index of the photograph of each row `[n]`; None = every row has its own photograph.
        scores: by method label and metric key.
        differences: by metric key and pair of labels, the first minus the second.
        curves: by metric key and method label, mean, low and high, float64 `[3, S]`, for metrics that have a curve.
    """

    names: list[str]
    targets: list[int]
    probabilities: list[float]
    skipped: list[tuple[str, str]]
    metrics: list[PerImageMetric]
    rows: dict[str, dict[str, Tensor]]
    maps: dict[str, np.ndarray]
    constant: dict[str, list[str]]
    photographs: Tensor | None
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    differences: dict[str, dict[tuple[str, str], Score]] = field(default_factory=dict)
    curves: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.names)

    def counted(self, metric: PerImageMetric) -> int:
        """Number of images that a metric does not skip; the same for every method."""
        return int(metric.scores(next(iter(self.rows.values()))[metric.key]).isfinite().sum())


def gather(evaluation: Evaluation) -> Results:
    """Read all pieces and compute scores, intervals and differences.

    Raises:
        InputError: no readable image, an image that is readable for some methods only, or a missing piece.
    """
    by_method = _read_pieces(evaluation)
    some = next(iter(by_method.values()))
    skipped = evaluation.unreadable + [entry for piece in some for entry in piece.skipped]
    names = [name for piece in some for name in piece.names]
    if not names:
        raise InputError(f"none of the {len(skipped)} images can be used; {skipped[0][1] if skipped else 'none given'}")
    metrics = [metric for protocol in evaluation.protocols for metric in protocol.metrics()]
    metrics.sort(key=lambda metric: not metric.summary)  # stable: otherwise in the order of the protocols
    rows = {
        label: {
            metric.key: torch.from_numpy(
                np.concatenate([piece.rows[metric.key] for piece in pieces if piece.names])
            ).double()
            for metric in metrics
        }
        for label, pieces in by_method.items()
    }
    results = Results(
        names=names,
        targets=[target for piece in some for target in piece.targets],
        probabilities=[value for piece in some for value in piece.probabilities],
        skipped=skipped,
        metrics=metrics,
        rows=rows,
        maps={
            label: _join_maps([piece.maps for piece in pieces if len(piece.maps)])
            for label, pieces in by_method.items()
        },
        constant=_constant_maps(evaluation, by_method),
        photographs=evaluation.samples.photographs(),
    )
    _bootstrap(results, evaluation.config.resamples, evaluation.config.seed)
    return results


def _read_pieces(evaluation: Evaluation) -> dict[str, list[Piece]]:
    """The pieces of all chunks, by method label; all methods have the same images."""
    chunks = range(len(evaluation.samples))
    paths = [evaluation.piece_path(method, chunk) for method in evaluation.methods for chunk in chunks]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} pieces, such as {missing[0]}, are missing: their images changed during "
            "the evaluation, or the files were removed; run the same command again to recompute them"
        )
    by_method: dict[str, list[Piece]] = {
        method.label: [evaluation.store.load(evaluation.piece_path(method, chunk)) for chunk in chunks]
        for method in evaluation.methods
    }
    reference, some = next(iter(by_method.items()))
    for label, pieces in by_method.items():
        for chunk, (piece, first) in enumerate(zip(pieces, some, strict=True)):
            if (piece.names, piece.targets) != (first.names, first.targets):
                for method in evaluation.methods:
                    evaluation.piece_path(method, chunk).unlink(missing_ok=True)
                name = next(iter({*piece.names} ^ {*first.names}), first.names[0])
                raise InputError(
                    f"{name} was read for one of {reference} and {label} but not for the other: the file changed or "
                    "its disk failed; run the same command again to recompute these scores"
                )
    return by_method


def _constant_maps(evaluation: Evaluation, by_method: dict[str, list[Piece]]) -> dict[str, list[str]]:
    """Images with a constant map by method label, for methods that have any; controls may be constant by design."""
    compared = [method.label for method in evaluation.methods if not method.control]
    named = {
        label: [name for p in by_method[label] for name, flat in zip(p.names, p.constant, strict=True) if flat]
        for label in compared
    }
    return {label: names for label, names in named.items() if names}


def _join_maps(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty((0, 1, 1), np.float16)


def _bootstrap(results: Results, resamples: int, seed: int) -> None:
    labels = list(results.rows)
    resampled: dict[tuple[str, str], list[Tensor]] = {}
    curves: dict[tuple[str, str], list[Tensor]] = {}
    photographs = torch.arange(results.n) if results.photographs is None else results.photographs
    for weights in weight_blocks(photographs, resamples, seed):
        shares = weights / weights.sum(1, keepdim=True)
        for label in labels:
            for metric in results.metrics:
                rows = results.rows[label][metric.key]
                resampled.setdefault((label, metric.key), []).append(metric.aggregate(rows, weights))
                if metric.steps is not None:
                    curves.setdefault((label, metric.key), []).append(shares @ metric.curve(rows))
    draws = {key: torch.cat(parts) for key, parts in resampled.items()}
    once = torch.ones(1, results.n, dtype=torch.float64)
    means = {
        (label, metric.key): float(metric.aggregate(results.rows[label][metric.key], once)[0])
        for label in labels
        for metric in results.metrics
    }
    for metric in results.metrics:
        key = metric.key
        for place, label in enumerate(labels):
            results.scores.setdefault(label, {})[key] = Score(means[label, key], *interval(draws[label, key]))
            for other in labels[place + 1 :]:
                difference = interval(draws[label, key] - draws[other, key])
                pairs = results.differences.setdefault(key, {})
                pairs[label, other] = Score(means[label, key] - means[other, key], *difference)
            if metric.steps is not None:
                mean = metric.curve(results.rows[label][key]).mean(0)
                band = torch.cat(curves[label, key]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
                results.curves.setdefault(key, {})[label] = torch.cat([mean[None], band])
