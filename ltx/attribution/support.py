"""Which methods work on a classifier, and why others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltx.attribution.attention import attention_refusal, has_attention
from ltx.attribution.feature_layers import chosen_layers
from ltx.attribution.registry import METHODS, check_options
from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


def refusal(method: str, classifier: Classifier, options: Mapping[str, Any] | None = None) -> str:
    """Why a method does not work on this classifier with these options (its named layers, say); `""` if it does."""
    needs, layers = METHODS[method].needs, METHODS[method].layers
    if "attention" in needs and has_attention(classifier):
        return ""
    if needs == "attention":
        return attention_refusal(classifier)
    if "features" in needs:
        named = dict(options or {})
        try:
            chosen_layers(classifier, named.get("layers", named.get("layer")), layers)
        except InputError as error:
            return str(error)
    return ""


def supported_methods(classifier: Classifier) -> list[str]:
    """The names of the methods that work on this classifier."""
    return [name for name in METHODS if not refusal(name, classifier)]


def refuse(classifier: Classifier, reason: str) -> InputError:
    """The error that says why a method does not work on this classifier, and which ones do."""
    return InputError(f"{reason}; methods that work on it: {', '.join(supported_methods(classifier))}")


def check_method(method: str, classifier: Classifier, options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options and their defaults, once it is clear that it works with these on this classifier.

    Raises:
        InputError: see `check_options`; or it does not, and the text says whether other options or methods would.
    """
    known = check_options(method, options)
    reason = refusal(method, classifier, options)
    if reason and not refusal(method, classifier):
        raise InputError(f"method={method}: {reason}")
    if reason:
        raise refuse(classifier, f"method={method} does not work: {reason}")
    return known
