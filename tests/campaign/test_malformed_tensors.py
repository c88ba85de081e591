"""Part 1, continued: tensors of wrong types, shapes and values given to every public function."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx.metrics.perturbation import Prediction
from tests.campaign.arena import SEED
from tests.campaign.oracle import limited
from tests.campaign.public_functions import PublicFunction, ValidCalls, public_functions

FUNCTIONS = public_functions()

SHAPES = [(), (0,), (3,), (32, 32), (3, 32, 32), (1, 3, 32, 32), (2, 3, 32, 32), (2, 1, 32, 32), (2, 3, 31, 33)]
SHAPES += [(0, 3, 32, 32), (2, 4, 32, 32), (1, 2, 3, 32, 32), (2, 3, 0, 32), (2, 3, 1, 1)]
TYPES = [torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool, torch.complex64]
VALUES = [0.5, 0.0, -3.0, 255.0, float("nan"), float("inf")]


def tensor(shape: tuple[int, ...], kind: torch.dtype, value: float) -> Tensor:
    return torch.full(shape, value).to(kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)


CHANGES: list[Callable[[Tensor], Any]] = [
    *(lambda valid, kind=kind: valid.to(kind) for kind in TYPES),
    *(lambda valid, value=value: torch.full_like(valid, value) for value in VALUES if value == value // 1),
    lambda valid: valid[:0],
    lambda valid: valid[:1],
    lambda valid: valid[..., :0],
    lambda valid: valid[..., :-1],
    lambda valid: valid[..., 0],
    lambda valid: valid[0],
    lambda valid: valid[None],
    lambda valid: valid.mT if valid.ndim > 1 else valid[:, None],
    lambda valid: torch.cat([valid, valid]),
    lambda valid: torch.cat([valid, valid], -1),
    lambda valid: valid.float() * torch.nan,
    lambda valid: valid.tolist(),
    lambda valid: valid.numpy(),
    lambda valid: "predicted",
]
"""Wrong values that are almost right; some of them are right for some functions."""

changes = st.one_of(
    st.sampled_from(CHANGES),
    st.builds(
        lambda *how: lambda valid: tensor(*how),
        st.sampled_from(SHAPES),
        st.sampled_from(TYPES),
        st.sampled_from(VALUES),
    ),
)
targets = st.one_of(
    st.none(),
    st.integers(-5, 9),
    st.sampled_from(["cat", "cta", "", "predicted"]),
    st.lists(st.integers(-2, 6), max_size=3),
    st.builds(tensor, st.sampled_from(SHAPES), st.sampled_from(TYPES), st.sampled_from(VALUES)),
    st.floats(),
    st.booleans(),
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> ValidCalls:
    return ValidCalls(tmp_path_factory.mktemp("checkpoint"))


def call(function: PublicFunction, owner: Any, arguments: dict[str, Any]) -> Any:
    target = function.owner if function.name.endswith(".__init__") else function.function
    several = [arguments.pop(each.name) for each in function.parameters if each.kind is each.VAR_POSITIONAL]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (target if owner is None else functools.partial(target, owner))(*several, **arguments)  # type: ignore[misc]


def changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A wrong value: of one of several tensors, where the argument has several."""
    if isinstance(value, Prediction):
        return value._replace(probability=change(value.probability))
    if isinstance(value, dict):
        first = next(iter(value), "absent")
        return value | {first: change(value.get(first, torch.rand(2, 4)))}
    return change(value)


def faults(error: Exception, function: PublicFunction, name: str, owner: Any) -> str:
    """What is wrong with an error: its type, its length, or that it does not name the argument."""
    text = str(error)
    if not isinstance(error, (ValueError, TypeError)):
        return f"{type(error).__name__}: {text[:200]}"
    if "\n" in text or len(text) > 1000:
        return f"a long error: {text[:200]!r}"
    stems = [name.rstrip("s").replace("_", " "), name.rstrip("s"), getattr(owner, "name", name), "background"]
    return "" if any(stem in text for stem in stems) else f"the error does not name {name}: {text[:200]}"


def result_fault(result: Any, name: str, given: Any) -> str:
    values = result if isinstance(result, Tensor) else getattr(result, "maps", None)
    if name not in ("images", "inputs") or not isinstance(values, Tensor) or not values.numel():
        return ""
    return f"result of shape {tuple(values.shape)}" if values.shape[:1] != given.shape[:1] else ""


def fault_of(
    function: PublicFunction, owner: Any, arguments: dict[str, Any], argument: str, value: object
) -> list[str]:
    """What is wrong with a call in which one argument has another value."""
    about = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)[:80]
    try:
        with limited(60):
            result = call(function, owner, arguments | {argument: value})
    except Exception as error:
        fault = faults(error, function, argument, owner)
    else:
        fault = result_fault(result, argument, value)
    return [f"{argument} = {about}: {fault}"] if fault else []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_a_valid_call(valid: ValidCalls, name: str) -> None:
    owner = valid.owner(FUNCTIONS[name])
    call(FUNCTIONS[name], owner, valid.arguments(FUNCTIONS[name], owner))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_a_tensor_is_refused(valid: ValidCalls, name: str) -> None:
    function, found = FUNCTIONS[name], []
    for argument in function.tensors:
        for wrong in ("predicted", np.zeros((2, 1, 32, 32), np.float32)):
            owner = valid.owner(function)
            arguments = valid.arguments(function, owner)
            if isinstance(arguments[argument], Tensor):
                found += fault_of(function, owner, arguments, argument, wrong)
    assert not found, found


@pytest.mark.campaign
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_tensors(valid: ValidCalls, name: str) -> None:
    function, found = FUNCTIONS[name], set()

    @seed(SEED)
    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(function.tensors), changes, targets)
    def check(argument: str, change: Callable[[Tensor], Any], target: Any) -> None:
        owner = valid.owner(function)
        arguments = valid.arguments(function, owner)
        loose = "Targets" in str(next(each.annotation for each in function.parameters if each.name == argument))
        try:
            given = target if loose else changed(arguments[argument], change)
        except (RuntimeError, IndexError):  # the change does not apply to this tensor
            return
        found.update(fault_of(function, owner, arguments, argument, given))

    check()
    assert not found, f"{len(found)} faults:\n" + "\n".join(sorted(found)[:12])
