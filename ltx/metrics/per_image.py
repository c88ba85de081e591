"""Base class of all metrics: one row of numbers for each image, and a score for any weighted set of images."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ltx.metrics.perturbation import Prediction
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

Inputs = Tensor | Prediction


class PerImageMetric(Metric):
    """A metric whose state is one row for each image, gathered over ranks by `sync`.

    The rows allow bootstrap intervals and paired differences to be computed afterwards; sums would not. A subclass
    defines `update`. The parameter names of `update` are keys of the dictionary that the protocol's `measure` returns.
    If the score is not the mean over images, the subclass also defines `scores` and `aggregate`.

    Attributes:
        name: the name in tables.
        meaning: one line that describes the axes and the range.
        protocol: the key in `ltx.metrics.registry.PROTOCOLS` of the protocol that computes the inputs of `update`.
        citation: the paper that defines the metric.
        higher_is_better: the direction.
        decimals: number of decimals in tables.
        columns: number of values in a row.
        summary: whether tables show it first, before all other metrics.
        steps: for curves, the x-axis: the fraction of pixels removed (or inserted) at each column; otherwise None.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    protocol: ClassVar[str]
    citation: ClassVar[str]
    higher_is_better: bool
    full_state_update = False
    decimals: ClassVar[int] = 1
    columns: ClassVar[int] = 1
    summary: ClassVar[bool] = False
    steps: list[float] | None = None
    rows: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @property
    def key(self) -> str:
        """The name of this instance: `name`, followed by the fill for metrics that are computed with several fills."""
        return self.name

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    def append(self, *columns: Tensor) -> None:
        """Add `B` rows, passed as columns `[B]` or blocks of columns `[B, C]`.

        Raises:
            InputError: the columns are not `columns` in all, or not of equal length.
        """
        wrong = next((type(column).__name__ for column in columns if not isinstance(column, Tensor)), None)
        if wrong is not None:
            raise InputError(f"{self.name} was given columns of type {wrong}; give tensors")
        shapes = [tuple(column.shape) for column in columns]
        widths = [math.prod(shape[1:]) for shape in shapes]
        if len({shape[:1] for shape in shapes} - {()}) != 1 or () in shapes or sum(widths) != self.columns:
            given = ", ".join(str(list(shape)) for shape in shapes) or "nothing"
            raise InputError(f"{self.name} was given columns {given}; give {self.columns} in all, of equal length [B]")
        blocks = [
            column.detach().float().reshape(column.shape[0], width)
            for column, width in zip(columns, widths, strict=True)
        ]
        self.rows.append(torch.cat(blocks, 1))

    def sync(self, *arguments: Any, **options: Any) -> None:
        """Gather rows over ranks like `Metric.sync`; a rank without images contributes an empty `[0, C]` block."""
        if not len(self.rows):
            self.rows.append(torch.empty(0, self.columns, device=self.device))
        super().sync(*arguments, **options)

    def all_rows(self) -> Tensor:
        """All rows so far `[n, C]`; after `sync`, the rows of all ranks."""
        return dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, self.columns, device=self.device)

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        """The score of each image `[n]`, from rows `[n, C]`; NaN if the metric's definition skips the image."""
        return rows[:, 0]

    @takes(rows="float [n, .columns]")
    def curve(self, rows: Tensor) -> Tensor:
        """The curve of each image `[n, S]` over `steps`, for metrics that have one."""
        return rows[:, -len(self.steps or []) :]

    @takes(rows="float64 [n, .columns]", weights="float64 [R, n]")
    def aggregate(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Scores `[R]` of `R` weighted sets of images, from rows `[n, C]` and weights `[R, n]`, both float64."""
        values = self.scores(rows)
        counted = values.isfinite()
        return (weights[:, counted] @ values[counted]) / weights[:, counted].sum(1)

    def compute(self) -> Tensor:
        """The score of all images, a scalar; NaN if every image was skipped."""
        rows = self.all_rows().double()
        return self.aggregate(rows, rows.new_ones(1, rows.shape[0]))[0].float()

    @property
    def skipped(self) -> int:
        """Number of images so far that the metric's definition skips."""
        return int(self.scores(self.all_rows()).isnan().sum())
