"""The settings of a classifier."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ltx.config.options import option

if TYPE_CHECKING:
    from ltx.classifier.classifier import Classifier


@dataclass
class ClassifierConfig:
    """The explained model; see `ltx.Classifier` for the meaning of each key."""

    name: str = option("tf_efficientnet_lite0", "timm model name")
    weights: str | None = option(None, "FILE (.safetensors, .pth); null = the pretrained ones; 'random' = none")
    num_classes: int | None = option(None, "number of classes, where it is not the model's own")
    class_names: Any = option(None, "FILE with one name a line, or a list; null = ImageNet's for 1,000 classes")
    head: str = option("softmax", "how logits become probabilities", choices=("softmax", "sigmoid"))
    input_size: Any = option(None, "side in pixels or [height, width]; null = the model's own")
    mean: list[float] | None = option(None, "channel means of the normalisation; null = the model's own")
    std: list[float] | None = option(None, "channel deviations of the normalisation; null = the model's own")
    precision: str = option("fp32", "of the classifier's forward pass", choices=("fp32", "bf16"))

    def build(self) -> Classifier:
        """The `Classifier`, on the CPU.

        Raises:
            InputError: see `ltx.Classifier`.
        """
        from ltx.classifier.classifier import Classifier

        return Classifier(**asdict(self))
