"""Learned explainers for any image classifier."""

from ltx.attribution.registry import attribute
from ltx.checkpoints.folder import load
from ltx.classifier.classifier import Classifier
from ltx.finetuning.finetune import finetune
from ltx.masking.fill import Fill, keep
from ltx.results.explanation import Explanation
from ltx.runtime.errors import InputError

__all__ = ["Classifier", "Explanation", "Fill", "InputError", "attribute", "finetune", "keep", "load"]
