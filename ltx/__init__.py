"""Learned explainers for any image classifier."""

from ltx.classifier import Classifier
from ltx.errors import InputError
from ltx.fill import Fill, keep

__all__ = ["Classifier", "Fill", "InputError", "keep"]
