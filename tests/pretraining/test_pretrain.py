"""`ltx.pretrain` for classifiers that are not timm's, and their checkpoints in other processes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ltx
from ltx.explainers.settings import ExplainerConfig
from ltx.pretraining.initial_weights import load_pretrained_trunk
from ltx.pretraining.run import run_pretraining
from tests.support.own_models import build
from tests.support.processes import run_python

QUICK = ["data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.progress=false"]
QUICK += ["trainer.overlays=1"]
OWN = "tests.support.own_models:build"


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_module_given_as_an_object(photos: Path, tmp_path: Path):
    module = build(classes=4, width=8).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    classifier = ltx.Classifier(module, input_size=64)
    explainer = ltx.pretrain(classifier, images=photos, steps=2, out=tmp_path / "run", settings=QUICK)
    assert explainer.classifier is classifier
    assert explainer.shares_trunk
    assert explainer.has_evidence, "the explainer reads the module's own features and head"
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    loaded = ltx.load(tmp_path / "run", ltx.Classifier(module, input_size=64))
    assert torch.equal(loaded(images()), explainer(images()))
    with pytest.raises(ltx.InputError, match=r"SmallCNN that was given as an object; pass the classifier"):
        ltx.load(tmp_path / "run")
    named = ltx.load(tmp_path / "run", name=OWN, options={"classes": 4, "width": 8})
    assert torch.equal(named(images()), explainer(images()))


def test_settings_that_change_modules_leave_the_classifiers_own_as_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiled: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    classifier = ltx.Classifier("test_vit", weights="random", num_classes=4)  # nothing to fold
    words = ["trainer.checkpoint_activations=true", "trainer.compile=true"]
    explainer = ltx.pretrain(classifier, images=photos, steps=1, out=tmp_path / "run", settings=[*QUICK, *words])
    assert explainer.classifier is classifier
    assert len(compiled) == 1
    assert compiled[0] is not classifier.model
    assert compiled[0].grad_checkpointing
    assert not classifier.model.grad_checkpointing


def test_an_interrupted_run_resumes_for_the_same_module_and_is_refused_for_another(photos: Path, tmp_path: Path):
    words = [*QUICK, "trainer.checkpoint_every=1"]
    first = ltx.pretrain(build(4, 8), images=photos, steps=2, out=tmp_path / "run", settings=words)
    again = ltx.pretrain(build(4, 8), images=photos, steps=2, out=tmp_path / "run", settings=words)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ltx.InputError, match="contains a run with other weights of SmallCNN"):
        ltx.pretrain(build(4, 8, seed=1), images=photos, steps=2, out=tmp_path / "run", settings=words)


def test_a_function_that_only_the_checkpoint_names_is_not_called_without_trust(photos: Path, tmp_path: Path):
    classifier = ltx.Classifier(OWN, options={"classes": 4, "width": 8}, input_size=64)
    explainer = ltx.pretrain(classifier, images=photos, steps=1, out=tmp_path / "run", settings=QUICK)
    with pytest.raises(ltx.InputError, match=r"importing and calling tests\.support\.own_models:build.* trust=true"):
        ltx.load(tmp_path / "run")
    loaded = ltx.load(tmp_path / "run", trust=True)
    assert torch.equal(loaded(images()), explainer(images()))
    words = [f"checkpoint={tmp_path}/run", f"images={photos}/0.png", f"out={tmp_path}/explained", "steps=1"]
    refused = run_python("-m", "ltx", "finetune", *words, status=2)
    assert "if you trust it, set trust=true" in refused
    run_python("-m", "ltx", "finetune", *words, "trust=true")
    assert json.loads((tmp_path / "explained" / "explanations.jsonl").read_text())["method"] == "ltx"


def test_train_and_finetune_take_torchvision_models(config_for: Any, photos: Path, tmp_path: Path):
    words = ["classifier.name=torchvision:resnet18", "trainer.max_steps=1"]
    out = run_pretraining(config_for("run", *words))
    explainer = ltx.load(out)
    assert explainer.shares_trunk
    explanation = ltx.finetune(explainer, images(), steps=1)
    assert explanation.mask is not None


def test_train_takes_transformers_models_and_finetune_rebuilds_them_in_a_new_process(
    config_for: Any, photos: Path, tmp_path: Path
):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
        **{"image_size": 64, "patch_size": 16, "id2label": {0: "ant", 1: "bee", 2: "wasp"}},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "vit")
    name = f"hf:{tmp_path}/vit"
    settings = ["classifier.weights=null", "classifier.num_classes=null", "classifier.input_size=null"]
    out = run_pretraining(config_for("run", f"classifier.name={name}", *settings, "trainer.max_steps=2"))
    words = [f"checkpoint={out}", f"images={photos}/0.png", f"out={tmp_path}/explained", "steps=1", "target=wasp"]
    run_python("-m", "ltx", "finetune", *words)
    record = json.loads((tmp_path / "explained" / "explanations.jsonl").read_text())
    assert record["target"] == 2
    assert ltx.load(out).classifier.fingerprint() == ltx.Classifier(name).fingerprint()


def test_a_trunk_of_its_own_starts_from_pretrained_weights():
    classifier = ltx.Classifier("resnet18", weights="random", num_classes=4, input_size=64)
    explainer = ExplainerConfig(trunk="tf_efficientnet_lite0").build(classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained_trunk(explainer, "tf_efficientnet_lite0")
    pretrained = ltx.Classifier().model.state_dict()
    assert explainer.trunk is not None
    trunk = explainer.trunk.state_dict()
    assert all(torch.equal(value, pretrained[name]) for name, value in trunk.items())


def test_a_trunk_without_pretrained_weights_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    classifier = ltx.Classifier("resnet18", weights="random", num_classes=4, input_size=64)
    explainer = ExplainerConfig(trunk="test_convnext").build(classifier)
    with pytest.warns(UserWarning, match=r"explainer\.trunk=test_convnext starts untrained"):
        load_pretrained_trunk(explainer, "test_convnext")
