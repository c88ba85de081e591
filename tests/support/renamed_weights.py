"""The same network in timm's, transformers' and torchvision's classes, with renamed weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns and their replacements, as `re.sub` takes them."""


def renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The state with each name rewritten by all rules in order."""
    result = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def split_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with timm's fused `attn.qkv` as transformers' `q_proj`, `k_proj` and `v_proj`."""
    result = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                result[name.replace("attn.qkv", f"attention.{part}_proj")] = chunk
        else:
            result[name] = value
    return result


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state into a model, in the model's shapes; Swin's tables of window positions stay the model's own."""
    wanted = model.state_dict()
    positions = {name: value for name, value in wanted.items() if name.endswith("relative_position_index")}
    given = {
        name: value
        for name, value in state.items()
        if "relative_position_index" not in name and "attn_mask" not in name
    }
    model.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in given.items()} | positions)
    return model


def wrapped(model: nn.Module, reference: Classifier) -> Classifier:
    """A classifier of `model` with the size and normalisation of another one."""
    mean, std = (values.flatten().tolist() for values in reference.normalisation)
    names = reference.class_names
    return Classifier(model, input_size=reference.input_size, mean=mean, std=std, class_names=names)


def vit_in_transformers(vit: nn.Module) -> nn.Module:
    """timm's ViT (class token, fused `qkv`) as `ViTForImageClassification`."""
    width, heads = vit.embed_dim, vit.blocks[0].attn.num_heads
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=heads,
        intermediate_size=vit.blocks[0].mlp.fc1.out_features,
        image_size=vit.patch_embed.img_size[0],
        patch_size=vit.patch_embed.patch_size[0],
        layer_norm_eps=vit.norm.eps,
        num_labels=vit.num_classes,
    )
    rules: Rules = [
        (r"^cls_token", "vit.embeddings.cls_token"),
        (r"^pos_embed", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
        (r"^blocks\.", "vit.layers."),
        (r"attn\.proj", "attention.o_proj"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"^norm\.", "vit.layernorm."),
        (r"^head\.", "classifier."),
    ]
    return fill(transformers.ViTForImageClassification(config), renamed(split_projections(vit.state_dict()), rules))


def vit_in_torchvision(vit: nn.Module) -> nn.Module:
    """timm's ViT as torchvision's `VisionTransformer`."""
    model = torchvision.models.VisionTransformer(
        image_size=vit.patch_embed.img_size[0],
        patch_size=vit.patch_embed.patch_size[0],
        num_layers=len(vit.blocks),
        num_heads=vit.blocks[0].attn.num_heads,
        hidden_dim=vit.embed_dim,
        mlp_dim=vit.blocks[0].mlp.fc1.out_features,
        num_classes=vit.num_classes,
        norm_layer=lambda width: nn.LayerNorm(width, eps=vit.norm.eps),
    )
    rules: Rules = [
        (r"^cls_token", "class_token"),
        (r"^pos_embed", "encoder.pos_embedding"),
        (r"^patch_embed\.proj", "conv_proj"),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"attn\.qkv\.(weight|bias)", r"self_attention.in_proj_\1"),
        (r"attn\.proj", "self_attention.out_proj"),
        (r"norm1", "ln_1"),
        (r"norm2", "ln_2"),
        (r"mlp\.fc1", "mlp.0"),
        (r"mlp\.fc2", "mlp.3"),
        (r"^norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."),
    ]
    return fill(model, renamed(vit.state_dict(), rules))


def resnet_in_torchvision(resnet: nn.Module) -> nn.Module:
    """timm's ResNet-18, whose names are torchvision's."""
    return fill(torchvision.models.resnet18(num_classes=resnet.num_classes), resnet.state_dict())


def resnet_in_transformers(resnet: nn.Module) -> nn.Module:
    """timm's ResNet-18 as `ResNetForImageClassification`."""
    config = transformers.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=resnet.num_classes
    )
    rules: Rules = [
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^layer(\d)\.(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
        (r"layers\.(\d)\.conv(\d)", lambda m: f"layers.{m[1]}.layer.{int(m[2]) - 1}.convolution"),
        (r"layers\.(\d)\.bn(\d)", lambda m: f"layers.{m[1]}.layer.{int(m[2]) - 1}.normalization"),
        (r"downsample\.0", "shortcut.convolution"),
        (r"downsample\.1", "shortcut.normalization"),
        (r"^fc\.", "classifier.1."),
    ]
    return fill(transformers.ResNetForImageClassification(config), renamed(resnet.state_dict(), rules))


def convnext_in_torchvision(convnext: nn.Module) -> nn.Module:
    """timm's ConvNeXt-T as torchvision's."""
    model = torchvision.models.convnext_tiny(num_classes=convnext.num_classes)
    rules: Rules = [
        (r"^stem\.", "features.0."),
        (r"^stages\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
        (r"^stages\.(\d)\.blocks\.(\d)\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}."),
        (r"\.gamma$", ".layer_scale"),
        (r"\.conv_dw\.", ".block.0."),
        (r"(features\.\d\.\d)\.norm\.", r"\1.block.2."),
        (r"\.mlp\.fc1\.", ".block.3."),
        (r"\.mlp\.fc2\.", ".block.5."),
        (r"^head\.norm\.", "classifier.0."),
        (r"^head\.fc\.", "classifier.2."),
    ]
    return fill(model, renamed(convnext.state_dict(), rules))


def convnext_in_transformers(convnext: nn.Module) -> nn.Module:
    """timm's ConvNeXt-T as `ConvNextForImageClassification`."""
    model = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_labels=convnext.num_classes))
    rules: Rules = [
        (r"^stem\.0\.", "convnext.embeddings.patch_embeddings."),
        (r"^stem\.1\.", "convnext.embeddings.layernorm."),
        (r"^stages\.(\d)\.downsample\.", r"convnext.encoder.stages.\1.downsampling_layer."),
        (r"^stages\.(\d)\.blocks\.", r"convnext.encoder.stages.\1.layers."),
        (r"\.gamma$", ".layer_scale_parameter"),
        (r"\.conv_dw\.", ".dwconv."),
        (r"(layers\.\d)\.norm\.", r"\1.layernorm."),
        (r"\.mlp\.fc1\.", ".pwconv1."),
        (r"\.mlp\.fc2\.", ".pwconv2."),
        (r"^head\.norm\.", "convnext.layernorm."),
        (r"^head\.fc\.", "classifier."),
    ]
    return fill(model, renamed(convnext.state_dict(), rules))


def swin_in_torchvision(swin: nn.Module) -> nn.Module:
    """timm's Swin-T as torchvision's."""
    model = torchvision.models.swin_t(num_classes=swin.num_classes)
    rules: Rules = [
        (r"^patch_embed\.proj\.", "features.0.0."),
        (r"^patch_embed\.norm\.", "features.0.2."),
        (r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
        (r"^layers\.(\d)\.blocks\.(\d)\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}."),
        (r"mlp\.fc1", "mlp.0"),
        (r"mlp\.fc2", "mlp.3"),
        (r"^head\.fc\.", "head."),
    ]
    return fill(model, renamed(swin.state_dict(), rules))


def swin_in_transformers(swin: nn.Module) -> nn.Module:
    """timm's Swin-T as `SwinForImageClassification`."""
    model = transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=swin.num_classes))
    rules: Rules = [
        (r"^patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "swin.embeddings.norm."),
        (r"^layers\.(\d)\.downsample\.", lambda m: f"swin.encoder.layers.{int(m[1]) - 1}.downsample."),
        (r"^layers\.", "swin.encoder.layers."),
        (r"attn\.relative_position", "attention.relative_position_bias.relative_position"),
        (r"attn\.proj", "attention.o_proj"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"^norm\.", "swin.layernorm."),
        (r"^head\.fc\.", "classifier."),
    ]
    return fill(model, renamed(split_projections(swin.state_dict()), rules))


def random_timm(name: str, size: int | None, **options: object) -> Classifier:
    """A timm classifier with random weights everywhere, also where timm starts from zeros and ones."""
    model = timm.create_model(name, num_classes=5, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return Classifier(model, input_size=size)
