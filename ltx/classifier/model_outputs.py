"""The logits in the output of a model, and the call that a model expects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ltx.runtime.errors import InputError

LOGIT_KEYS = ("logits", "logit", "out", "output", "outputs", "scores", "pred", "predictions")


def find_logits(output: Any, name: str, single: bool = False) -> Tensor:
    """The logits `[B, K]` in the output of a model.

    A tensor, the first element of a tuple or list (auxiliary outputs follow), or the entry `logits` of a dict or a
    transformers output; a dict with a single tensor `[B, K]` needs no such key.

    Args:
        output: the return value of the model.
        name: the model in error messages.
        single: whether a tensor `[B]` is one logit per image (a binary head).

    Raises:
        InputError: no logits are found.
    """
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        output = output[0] if output else output
    if isinstance(output, dict) or hasattr(output, "_fields"):
        entries = dict(output) if isinstance(output, dict) else output._asdict()
        key = next((key for key in LOGIT_KEYS if isinstance(entries.get(key), Tensor)), None)
        matrices = [value for value in entries.values() if isinstance(value, Tensor) and value.ndim == 2]
        if key is not None:
            output = entries[key]
        elif len(matrices) == 1 and "last_hidden_state" not in entries:
            output = matrices[0]
        else:
            features = "features and no logits" if "last_hidden_state" in entries else "no unique logits [B, K]"
            raise InputError(
                f"{name} returns a {type(output).__name__} with {features} (entries: {', '.join(map(str, entries))}); "
                "give a model with a classification head, or forward=lambda module, images: … that returns logits"
            )
    if isinstance(output, Tensor) and output.ndim == 1 and single:
        return output.unsqueeze(1)
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    returned = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise InputError(
        f"{name} returns {returned}; a classifier returns logits [B, K]: "
        "give forward=lambda module, images: … that returns them"
    )


def keyword_call(module: nn.Module) -> Callable[[nn.Module, Tensor], Any] | None:
    """How to call a module whose images are a keyword-only argument; None for a positional one.

    Raises:
        InputError: the module has several required arguments.
    """
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # a built-in
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1:
        names = ", ".join(parameter.name for parameter in required)
        raise InputError(
            f"{type(module).__name__} takes several arguments ({names}); give forward=lambda module, images: …"
        )
    if any(parameter.kind in (*positional, inspect.Parameter.VAR_POSITIONAL) for parameter in parameters):
        return None
    keywords = required or [p for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY]
    if not keywords:
        return None
    name = keywords[0].name
    return lambda called, images: called(**{name: images})
