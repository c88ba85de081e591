"""Models by name from torchvision and transformers, and the identity of modules."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import transformers
from torch import nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError
from tests.support.toy_models import ThreeStages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT of transformers with three named classes, 48 pixels and a mean of its own."""
    place = tmp_path_factory.mktemp("hf") / "vit"
    config = transformers.ViTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        **{"image_size": 48, "patch_size": 16, "id2label": {0: "ant", 1: "bee", 2: "wasp"}},
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(place)
    size = {"height": 48, "width": 48}
    transformers.ViTImageProcessor(size=size, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(
        place
    )
    return place


def test_transformers_folder(folder: Path) -> None:
    classifier = Classifier(f"hf:{folder}")
    assert classifier.input_size == (48, 48)
    assert classifier.class_names == ["ant", "bee", "wasp"]
    images = torch.rand(2, 3, 48, 48)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    module = transformers.ViTForImageClassification.from_pretrained(folder)
    torch.testing.assert_close(classifier(images), module((images - mean) / std).logits)
    untrained = Classifier(f"hf:{folder}", weights="random", num_classes=5)
    assert untrained.num_classes == 5
    assert not torch.allclose(untrained(images)[:, :3], classifier(images))


@pytest.mark.parametrize(
    "processor",
    [
        transformers.EfficientNetImageProcessor(size={"height": 48, "width": 48}),  # divides by its std twice
        transformers.EfficientNetImageProcessor(size={"height": 48, "width": 48}, include_top=False),
        transformers.ViTImageProcessor(size={"height": 48, "width": 48}, rescale_factor=1 / 127.5),
        transformers.ViTImageProcessor(size={"height": 48, "width": 48}, do_rescale=False, do_normalize=False),
    ],
    ids=["twice", "once", "another range", "bytes"],
)
def test_normalisation_is_what_the_image_processor_does(processor: Any, folder: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification.from_pretrained(folder).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (1, 48, 48, 3), generator=torch.Generator().manual_seed(0)).byte()
    inputs = processor(list(pixels.numpy()), return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
    mean, std = Classifier(f"hf:{tmp_path}").normalisation
    torch.testing.assert_close(((pixels.permute(0, 3, 1, 2) / 255) - mean) / std, inputs.float(), rtol=1e-4, atol=1e-4)


def test_the_stated_normalisation_keeps_all_its_digits(folder: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification.from_pretrained(folder).save_pretrained(tmp_path)
    mean, size = [0.48145466, 0.4578275, 0.40821073], {"height": 48, "width": 48}  # CLIP's
    transformers.ViTImageProcessor(size=size, image_mean=mean, image_std=[0.5] * 3).save_pretrained(tmp_path)
    assert torch.equal(Classifier(f"hf:{tmp_path}").normalisation[0].flatten(), torch.tensor(mean))


def test_an_image_processor_that_exchanges_colours_is_refused(folder: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification.from_pretrained(folder).save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor(size={"shortest_edge": 48}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"exchanges red and blue; give a package\.module:function"):
        Classifier(f"hf:{tmp_path}")


def test_a_transformers_folder_of_half_precision_is_read_as_float32(folder: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification.from_pretrained(folder).half().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no image processor"):
        classifier = Classifier(f"hf:{tmp_path}")
    assert {parameter.dtype for parameter in classifier.model.parameters()} == {torch.float32}


def test_a_transformers_folder_without_a_head_is_refused(folder: Path, tmp_path: Path) -> None:
    transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no weights for classifier\.bias, classifier\.weight; give a folder"):
        Classifier(f"hf:{tmp_path}")


def test_folder_without_a_processor_warns_about_its_normalisation(folder: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    with pytest.warns(UserWarning, match=r"no image processor, .* set classifier\.mean and classifier\.std"):
        classifier = Classifier(f"hf:{tmp_path / 'bare'}")
    assert classifier.normalisation[0].flatten().tolist() == [0.5] * 3
    assert classifier.input_size == (48, 48)


def test_googlenet_of_torchvision_changes_the_normalisation_of_its_inputs(tmp_path: Path) -> None:
    network = torchvision.models.googlenet(num_classes=4, init_weights=False, transform_input=True).eval()
    network.fc.weight.data *= 1e4  # features of untrained weights are nearly the same for all inputs
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    classifier = Classifier("torchvision:googlenet", weights=tmp_path / "weights.pth", num_classes=4)
    inputs = torch.randn(2, 3, *classifier.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(inputs), network(inputs), rtol=1e-3, atol=1e-3)


def test_torchvision_by_name(tmp_path: Path) -> None:
    classifier = Classifier("torchvision:resnet18", weights="random", num_classes=4, input_size=64)
    assert classifier.normalisation[0].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    torch.save({"model": classifier.model.state_dict()}, tmp_path / "w.pth")
    again = Classifier("torchvision:resnet18", weights=tmp_path / "w.pth", num_classes=4, input_size=64)
    assert again.fingerprint() == classifier.fingerprint()
    assert Classifier("torchvision:resnet18", weights="random", num_classes=4).input_size == (224, 224)
    small = Classifier("torchvision:vit_b_32", weights="random", num_classes=4, input_size=64)
    assert small.grid == (2, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "torchvision:resnet19"}, "not a torchvision classification model; did you mean .*resnet18"),
        ({"name": "torchvision:resnet18", "num_classes": 5}, "num_classes=5: the pretrained .* has 1000"),
        ({"name": "torchvision:resnet18", "weights": "random", "options": {"x": 1}}, "with these options"),
        ({"name": "hf:./nowhere"}, "the folder does not exist"),
        ({"name": "HF", "num_classes": 5}, "its weights have num_labels=3, not 5"),
        ({"name": "torchvision:resnet18", "weights": "random", "features": ["layer9"]}, "'layer9' is not a module"),
        ({"name": "resnet18", "weights": "random", "features": ["layer1"]}, "is a timm model, whose layers are known"),
    ],
)
def test_names_that_cannot_be_built(folder: Path, options: dict[str, Any], text: str) -> None:
    options = options | {"name": options["name"].replace("HF", f"hf:{folder}")}
    with pytest.raises(InputError, match=text) as caught:
        Classifier(**options)
    assert "\n" not in str(caught.value)


# -- identity ------------------------------------------------------------------------------------------------------


def test_identity_of_a_module_is_its_weights_and_structure() -> None:
    torch.manual_seed(0)
    one, other = ThreeStages(), ThreeStages()

    class Renamed(ThreeStages):
        pass

    renamed = Renamed()
    renamed.load_state_dict(one.state_dict())
    strided = ThreeStages()
    strided.load_state_dict(one.state_dict())
    strided.stem[0] = nn.Conv2d(3, 6, 2, 2, dilation=1, padding_mode="reflect")
    strided.stem[0].load_state_dict(one.stem[0].state_dict())
    prints = [Classifier(module, input_size=16).fingerprint() for module in (one, other, renamed, strided)]
    assert prints[0] != prints[1], "the same class with other weights"
    assert prints[0] == prints[2], "the class of the module itself may have another name"
    assert prints[0] != prints[3], "the same weights in other layers"


def test_a_module_of_a_library_without_a_known_normalisation_warns() -> None:
    module = torchvision.models.resnet18(num_classes=4)
    with pytest.warns(UserWarning, match=r"ResNet is given as an object, .* give mean=\[…\] and std=\[…\]"):
        Classifier(module, input_size=64)
    config = transformers.ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8, num_labels=4)
    with pytest.warns(UserWarning, match=r"ResNetForImageClassification is given as an object, "):
        Classifier(transformers.ResNetForImageClassification(config), input_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier(module, input_size=64, mean=[0.5] * 3, std=[0.5] * 3)
        Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), input_size=2)  # of no library


def test_a_transformers_object_has_the_normalisation_of_its_image_processor(folder: Path) -> None:
    module = transformers.ViTForImageClassification.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = Classifier(module)
    assert classifier.normalisation[0].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert classifier.normalisation[1].flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
