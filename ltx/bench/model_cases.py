"""The models of the compatibility table: timm, torchvision, transformers, and modules as users write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError

# fmt: off
TIMM: tuple[str, ...] = (
    "beit_base_patch16_224", "bat_resnext26ts", "botnet26t_256", "cait_xxs24_224", "caformer_s18", "coat_tiny",
    "coatnet_nano_rw_224", "convformer_s18", "convit_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto",
    "crossvit_9_240", "cs3darknet_s", "cspdarknet53", "cspresnet50", "darknet53", "davit_tiny",
    "deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "densenet121", "dla34",
    "dm_nfnet_f0", "dpn48b", "eca_botnext26ts_256", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "efficientnet_b0", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_dw",
    "eva02_tiny_patch14_224", "fastvit_t8", "fbnetc_100", "flexivit_small", "focalnet_tiny_srf", "gcvit_xxtiny",
    "gernet_s", "ghostnet_050", "hardcorenas_a", "hgnet_tiny", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small",
    "inception_next_atto", "inception_v3", "inception_v4", "lambda_resnet26t", "lcnet_050", "levit_128s",
    "levit_conv_128s", "maxvit_pico_rw_256", "mixer_s16_224", "mixnet_s", "mnasnet_small", "mobilenet_edgetpu_v2_xs",
    "mobilenetv2_050", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs",
    "mobilevitv2_050", "mvitv2_tiny", "nest_tiny", "nf_regnet_b0", "nfnet_l0", "pit_ti_224", "pit_ti_distilled_224",
    "poolformer_s12", "pvt_v2_b0", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m0_9",
    "res2net50_14w_8s", "resmlp_12_224", "resnest14d", "resnet18", "resnet50", "resnetv2_50", "resnext50_32x4d",
    "rexnet_100", "selecsls42b", "semnasnet_075", "sequencer2d_s", "seresnet18", "shvit_s1", "skresnet18",
    "starnet_s1", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swiftformer_xs", "tiny_vit_5m_224",
    "tinynet_e", "tnt_s_patch16_224", "tresnet_m", "twins_svt_small", "vgg11_bn", "visformer_tiny",
    "vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224",
    "volo_d1_224", "xception41", "xcit_nano_12_p16_224",
)

TORCHVISION: tuple[str, ...] = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
)
# fmt: on

SIZES = {"maxvit_t": 224, "inception_v3": 299, "squeezenet1_1": 96, "alexnet": 96, "vit_b_32": 96}

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "image_size": 64, "patch_size": 2}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BEiT": ("Beit", SMALL),
    "CLIP": ("CLIP", {"vision_config": SMALL | {"patch_size": 16}}),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "image_size": 64}),
    "ConvNeXt V2": ("ConvNextV2", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "image_size": 64}),
    "DeiT": ("DeiT", SMALL),
    "DINOv2": ("Dinov2", SMALL | {"patch_size": 16}),
    "MobileNetV2": ("MobileNetV2", {"image_size": 64}),
    "PoolFormer": ("PoolFormer", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}),
    "PVTv2": ("PvtV2", {"hidden_sizes": [16, 32, 32, 64], "num_attention_heads": [1, 2, 2, 4]}),
    "ResNet": ("ResNet", {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "embedding_size": 16}),
    "SigLIP": ("Siglip", {"vision_config": SMALL | {"patch_size": 16}}),
    "Swin": ("Swin", SWIN | {"window_size": 4}),
    "Swin V2": ("Swinv2", SWIN | {"window_size": 4}),
    "ViT": ("ViT", SMALL),
}


@dataclass(frozen=True)
class ModelCase:
    """One row of the table.

    Attributes:
        group: `timm`, `torchvision`, `transformers` or `own module`.
        name: of the model.
        build: makes its classifier, with random weights.
        settings: settings of `ltx.Classifier` to show.
    """

    group: str
    name: str
    build: Callable[[], Classifier]
    settings: dict[str, Any] = field(default_factory=dict)


def cases() -> Iterator[ModelCase]:
    """All models of the table."""
    for name in TIMM:
        yield ModelCase("timm", name, lambda name=name: _timm(name))  # type: ignore[misc]  # a default binds the name
    for name in TORCHVISION:
        yield ModelCase("torchvision", name, lambda name=name: _torchvision(name))  # type: ignore[misc]
    for name in TRANSFORMERS:
        yield ModelCase("transformers", name, lambda name=name: _transformers(name))  # type: ignore[misc]
    for name, (module, settings) in OWN_MODULES.items():
        yield ModelCase("own module", name, lambda m=module, s=settings: _own(m, s), settings)  # type: ignore[misc]


def _timm(name: str) -> Classifier:
    """At 64 pixels if the model takes them, otherwise at its own size."""
    try:
        return Classifier(name, weights="random", num_classes=5, input_size=64)
    except InputError:
        return Classifier(name, weights="random", num_classes=5)


def _torchvision(name: str) -> Classifier:
    return Classifier(f"torchvision:{name}", weights="random", num_classes=5, input_size=SIZES.get(name, 64))


def _transformers(name: str) -> Classifier:
    import transformers

    kind, settings = TRANSFORMERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **settings)
        module = getattr(transformers, f"{kind}ForImageClassification")(config)
    return Classifier(module, input_size=64, mean=[0.5] * 3, std=[0.5] * 3)


# -- modules as users write them -----------------------------------------------------------------------------------


class SmallCNN(nn.Module):
    """Three convolutional blocks of stride 2, average pooling and a linear layer."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        widths = [channels, 8, 16, 32]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
                for a, b in itertools.pairwise(widths)
            )
        )
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.blocks(x).mean((2, 3)))


class TupleOutput(SmallCNN):
    def forward(self, x: Tensor) -> Any:
        maps = self.blocks(x)
        return self.fc(maps.mean((2, 3))), maps


class DictOutput(SmallCNN):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


class KeywordInput(SmallCNN):
    def forward(self, *, pixel_values: Tensor) -> Any:  # type: ignore[override]  # as transformers' models are called
        return super().forward(pixel_values)


OWN_MODULES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "1 channel": (lambda: SmallCNN(1), {}),
    "3 channels": (SmallCNN, {}),
    "4 channels": (lambda: SmallCNN(4), {}),
    "2 classes": (lambda: SmallCNN(classes=2), {}),
    "one logit": (lambda: SmallCNN(classes=1), {"head": "binary"}),
    "multi-label": (SmallCNN, {"head": "sigmoid"}),
    "tuple output": (TupleOutput, {}),
    "dict output": (DictOutput, {}),
    "keyword input": (KeywordInput, {}),
    "torch.compile": (lambda: _compiled(SmallCNN()), {}),
    "half precision": (lambda: SmallCNN().half(), {}),
    "DataParallel": (lambda: nn.DataParallel(SmallCNN()), {}),
    "torch.jit.script": (lambda: torch.jit.script(SmallCNN()), {}),
    "returns probabilities": (lambda: nn.Sequential(SmallCNN(), nn.Softmax(1)), {}),
    "forward under no_grad": (lambda: _without_gradient(SmallCNN()), {}),
}


def _compiled(module: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(module)  # type: ignore[assignment]  # annotated as a function
    return compiled


def _without_gradient(module: nn.Module) -> nn.Module:
    module.forward = torch.no_grad()(module.forward)
    return module


def _own(build: Callable[[], nn.Module], settings: dict[str, Any]) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build()
    return Classifier(module, input_size=64, **settings)
