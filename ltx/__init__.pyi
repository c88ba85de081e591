from .attribution.attribute import attribute as attribute
from .checkpoints.loading import load as load
from .classifier.classifier import Classifier as Classifier
from .finetuning.finetune import finetune as finetune
from .finetuning.per_image_settings import FinetuneSettings as FinetuneSettings
from .masking.fill import Fill as Fill
from .masking.fill import keep as keep
from .pretraining.pretrain import pretrain as pretrain
from .results.explanation import Explanation as Explanation
from .runtime.errors import InputError as InputError

__version__: str
__all__ = [
    "Classifier",
    "Explanation",
    "Fill",
    "FinetuneSettings",
    "InputError",
    "attribute",
    "finetune",
    "keep",
    "load",
    "pretrain",
]
