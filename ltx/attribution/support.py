"""Which methods work on a classifier, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltx.attribution.attention import attention_refusal, has_attention
from ltx.attribution.feature_layers import select_layers
from ltx.attribution.registry import METHODS, check_options
from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


def refusal(method: str, classifier: Classifier, options: Mapping[str, Any] | None = None) -> str:
    """Reason why a method does not work on this classifier with these options; an empty string if it does."""
    needs, count = METHODS[method].needs, METHODS[method].layers
    if "attention" in needs and has_attention(classifier):
        return ""
    if needs == "attention":
        return attention_refusal(classifier)
    if "features" in needs:
        values = dict(options or {})
        try:
            select_layers(classifier, values.get("layers", values.get("layer")), count)
        except InputError as error:
            return str(error)
    return ""


def supported_methods(classifier: Classifier) -> list[str]:
    """Names of the methods that work on this classifier."""
    return [name for name in METHODS if not refusal(name, classifier)]


def unsupported(classifier: Classifier, reason: str) -> InputError:
    """Error that states why a method does not work on this classifier and which methods do."""
    return InputError(f"{reason}; methods that work on it: {', '.join(supported_methods(classifier))}")


def check_method(method: str, classifier: Classifier, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check that a method works on a classifier with these options; return all of its options with their defaults.

    Raises:
        InputError: invalid options (see `check_options`), or the method does not work on the classifier. The message
            says whether other options or other methods would work.
    """
    defaults = check_options(method, options)
    reason = refusal(method, classifier, options)
    if reason and not refusal(method, classifier):
        raise InputError(f"method={method}: {reason}")
    if reason:
        raise unsupported(classifier, f"method={method} does not work: {reason}")
    return defaults
