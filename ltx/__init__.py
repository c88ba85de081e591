"""Learned explainers for any image classifier."""

from ltx.attribution import attribute
from ltx.checkpoints import load
from ltx.classifier import Classifier
from ltx.errors import InputError
from ltx.explanation import Explanation
from ltx.fill import Fill, keep
from ltx.finetuning import finetune

__all__ = ["Classifier", "Explanation", "Fill", "InputError", "attribute", "finetune", "keep", "load"]
