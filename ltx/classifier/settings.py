"""The settings of a classifier."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ltx.classifier.choices import HEADS, PRECISIONS
from ltx.config.options import option

if TYPE_CHECKING:
    from ltx.classifier.classifier import Classifier

DEFAULT_NAME = "tf_efficientnet_lite0"


@dataclass
class ClassifierConfig:
    """The explained model; see `ltx.Classifier` for the meaning of each key."""

    name: str = option(
        DEFAULT_NAME,
        "timm name, torchvision:NAME, hf:FOLDER (transformers), or package.module:function of your own",
        path=True,
        imports=True,
    )
    weights: str | None = option(None, "FILE (.safetensors, .pth); null = pretrained; 'random' = untrained", path=True)
    num_classes: int | None = option(None, "number of classes; null = the model's own")
    class_names: Any = option(
        None, "FILE with one name per line, or a list; null = ImageNet's for 1,000 classes", path=True
    )
    head: str = option("softmax", "how logits become probabilities; binary = one logit for two classes", choices=HEADS)
    input_size: Any = option(None, "side in pixels or [height, width]; null = the model's own")
    mean: list[float] | None = option(None, "channel means of the normalisation; null = the model's own")
    std: list[float] | None = option(None, "channel standard deviations; null = the model's own")
    precision: str = option("fp32", "precision of the classifier's forward pass", choices=PRECISIONS)
    channels: int | None = option(None, "number of image channels; null = the model's own")
    weights_key: str | None = option(None, "entry of the weights file (state_dict_ema); null = chosen, EMA first")
    options: dict[str, Any] = option({}, "keyword arguments for the function that builds the model")
    features: list[str] | None = option(None, "modules whose outputs are the feature maps; null = inferred")
    head_layer: str | None = option(None, "name of the linear classification layer; null = inferred")
    grid: list[int] | None = option(None, "height and width of the patch tokens; null = inferred")
    prefix_tokens: int | None = option(None, "number of class and register tokens; null = inferred")

    def build(self) -> Classifier:
        """Build the `Classifier`, on the CPU.

        Raises:
            InputError: see `ltx.Classifier`.
        """
        from ltx.classifier.classifier import Classifier

        return Classifier(**{field.name: getattr(self, field.name) for field in fields(self)})
