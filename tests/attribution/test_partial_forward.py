"""Cutting a network: replays of the layers after the cut."""

from __future__ import annotations

import torch
from torch import nn

from ltx.attribution.partial_forward import record


def replayed(model: nn.Module, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Output of the model for `x` with `value` at its cut, for each repeat of `value`."""
    repeats = len(value) // len(x)
    with torch.no_grad(), record(model, model.cut, lambda: model(x)).replaying(repeats, value):
        return model(x.repeat(repeats, 1))


def test_a_cut_replays_modules_that_are_called_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.cut = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = self.same(x)
            return self.same(self.cut(skip)) + skip

    torch.manual_seed(0)
    model, x = Twice(), torch.rand(2, 4)
    value = torch.rand(6, 4)
    output = replayed(model, x, value)
    with torch.no_grad():
        expected = model.same(value) + model.same(x).repeat(3, 1)
    torch.testing.assert_close(output, expected)
    assert "forward" not in model.same.__dict__


def test_outputs_without_a_batch_dimension_are_not_repeated():
    """A table of positions `[2h - 1, …]` has no row per image."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first, self.cut = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bias = self.table(torch.arange(5.0)[:, None])
            return self.cut(self.first(x)) + bias.sum(0) + bias[len(bias) - 1]

    torch.manual_seed(0)
    model, x = Biased(), torch.rand(2, 4)
    value = torch.rand(6, 4)
    output = replayed(model, x, value)
    with torch.no_grad():
        bias = model.table(torch.arange(5.0)[:, None])
    torch.testing.assert_close(output, value + bias.sum(0) + bias[4])


def test_one_tensor_of_a_tuple_is_replaced():
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.cut = nn.Linear(4, 4), Pair()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            doubled, x = self.cut(self.first(x))
            return doubled + x

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 2 * x, x + 1

    torch.manual_seed(0)
    model, x, value = Pairs(), torch.rand(2, 4), torch.rand(6, 4)
    with torch.no_grad(), record(model, model.cut, lambda: model(x), position=1).replaying(3, value):
        output = model(x.repeat(3, 1))
    with torch.no_grad():
        torch.testing.assert_close(output, 2 * model.first(x).repeat(3, 1) + value)
