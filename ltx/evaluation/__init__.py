"""Compare explanation methods under one protocol: `evaluate(EvaluationConfig(methods=[…], images=…, out=…))`."""

from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig

__all__ = ["EvaluationConfig", "evaluate"]
