"""What every metric is: one row of numbers for each image, and a score of any weighted set of images."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ltx.metrics.perturbation import Prediction

Inputs = Tensor | Prediction


class PerImageMetric(Metric):
    """A metric whose state is one row for each image, gathered over ranks by `sync`.

    Keeping rows rather than sums is what makes bootstrap intervals and paired differences possible afterwards.
    A metric defines `update`, whose parameter names are entries of what its protocol measures, and, where its score
    is no plain mean over images, `scores` and `aggregate`.

    Attributes:
        name: as the tables print it.
        meaning: one line: what is on the axes, which range.
        protocol: the entry of `ltx.metrics.PROTOCOLS` that measures what it reads.
        citation: where it is defined.
        higher_is_better: the direction.
        decimals: how many a table shows.
        columns: how many numbers a row has.
        steps: for curves, the x-axis: the share of pixels removed (or inserted) at each column; else None.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    protocol: ClassVar[str]
    citation: ClassVar[str]
    higher_is_better: bool
    full_state_update = False
    decimals: ClassVar[int] = 1
    columns: ClassVar[int] = 1
    steps: list[float] | None = None
    rows: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @property
    def key(self) -> str:
        """The name of this instance: `name`, with the fill where a metric comes in several."""
        return self.name

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    def append(self, *columns: Tensor) -> None:
        """Add `B` rows, given as columns `[B]` or blocks of columns `[B, C]`."""
        blocks = [column.detach().float().reshape(column.shape[0], -1) for column in columns]
        self.rows.append(torch.cat(blocks, 1))

    def sync(self, *arguments: Any, **options: Any) -> None:
        """As `Metric.sync`; a rank without images takes part with a block of no rows, not with a tensor of no shape."""
        if not len(self.rows):
            self.rows.append(torch.empty(0, self.columns, device=self.device))
        super().sync(*arguments, **options)

    def all_rows(self) -> Tensor:
        """Every row so far `[n, C]`; after `sync`, those of all ranks."""
        return dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, self.columns, device=self.device)

    def scores(self, rows: Tensor) -> Tensor:
        """The score of each image `[n]`, from rows `[n, C]`; NaN = this image is skipped by the metric's definition."""
        return rows[:, 0]

    def curve(self, rows: Tensor) -> Tensor:
        """The curve of each image `[n, S]` over `steps`, for metrics that have one."""
        return rows[:, -len(self.steps or []) :]

    def aggregate(self, rows: Tensor, weights: Tensor) -> Tensor:
        """The score of `R` weighted sets of images `[R]`, from rows `[n, C]` and weights `[R, n]`, both float64."""
        values = self.scores(rows)
        counted = values.isfinite()
        return (weights[:, counted] @ values[counted]) / weights[:, counted].sum(1)

    def compute(self) -> Tensor:
        """The score of all images, a scalar; NaN if every image was skipped."""
        rows = self.all_rows().double()
        return self.aggregate(rows, rows.new_ones(1, rows.shape[0]))[0].float()

    @property
    def skipped(self) -> int:
        """How many of the images so far the metric's definition leaves out."""
        return int(self.scores(self.all_rows()).isnan().sum())
