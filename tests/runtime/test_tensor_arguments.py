"""Checks of tensor arguments: types, shapes, sizes that agree, attributes of the object."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx.metrics.perturbation import Prediction
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes


@takes(maps="float [B, 1, H, W]", inside="real [B, 1, H, W]", targets="int64 [B]")
def function(maps: Tensor, inside: Tensor | None = None, *, targets: Tensor | None = None) -> int:
    """The number of maps."""
    return len(maps)


class Reader:
    classes = 4

    @takes(logits="float [..., .classes]")
    def read(self, logits: Tensor) -> Tensor:
        return logits


def test_tensors_that_fit_are_passed_on() -> None:
    maps = torch.zeros(2, 1, 3, 5)
    assert function(maps) == 2
    assert function(maps=maps, inside=maps > 0, targets=torch.zeros(2, dtype=torch.long)) == 2
    assert function(maps[:0], maps[:0]) == 0
    assert Reader().read(torch.zeros(7, 2, 4)).shape == (7, 2, 4)
    assert Reader().read(logits=torch.zeros(4)).shape == (4,)
    assert inspect.signature(function).parameters.keys() == {"maps", "inside", "targets"}
    assert function.__doc__ == "The number of maps."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": [1.0]}, "maps is of type list; give a tensor float [B, 1, H, W]"),
        ({"maps": torch.zeros(2, 3, 5)}, "maps is float32 [2, 3, 5]; give float [B, 1, H, W]"),
        ({"maps": torch.zeros(2, 2, 3, 5)}, "maps is float32 [2, 2, 3, 5]; give float [B, 1, H, W]"),
        ({"maps": torch.zeros(2, 1, 0, 5)}, "maps is float32 [2, 1, 0, 5]; give float [B, 1, H, W]"),
        ({"maps": torch.zeros(2, 1, 3, 5).long()}, "maps is int64 [2, 1, 3, 5]; give float [B, 1, H, W]"),
        (
            {"inside": torch.zeros(2, 1, 3, 4)},
            "inside is float32 [2, 1, 3, 4]; give real [2, 1, 3, 5], to fit maps",
        ),
        ({"inside": torch.zeros(2, 1, 3, 5).to(torch.complex64)}, "inside is complex64 [2, 1, 3, 5]; give real"),
        ({"targets": torch.zeros(3).long()}, "targets is int64 [3]; give int64 [2]"),
        ({"targets": torch.zeros(2).int()}, "targets is int32 [2]; give int64 [2]"),
    ],
)
def test_others_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        function(**{"maps": torch.zeros(2, 1, 3, 5), **arguments})
    assert str(raised.value).startswith(message)


def test_every_field_of_a_named_tuple_is_checked() -> None:
    @takes(one="float [B]", other="real [B]")
    def compare(one: Tensor, other: Prediction) -> None: ...

    compare(torch.zeros(2), Prediction(torch.zeros(2), torch.zeros(2) > 0))
    with pytest.raises(InputError, match=r"other\.correct is bool \[3\]; give real \[2\], to fit one"):
        compare(torch.zeros(2), Prediction(torch.zeros(2), torch.zeros(3) > 0))


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)])
def test_sizes_may_be_attributes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"logits is float32 .*; give float \[\.\.\., 4\]"):
        Reader().read(torch.zeros(shape))
