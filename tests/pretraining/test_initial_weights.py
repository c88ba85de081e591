"""Training that starts from the weights of another checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx import InputError, load
from ltx.checkpoints.folder import save_checkpoint
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.settings import ExplainerConfig
from ltx.pretraining.initial_weights import load_initial_weights
from ltx.pretraining.run import run_pretraining


def test_a_run_starts_from_the_weights_of_another(config_for: Any, tmp_path: Path):
    first = run_pretraining(config_for("first"))
    words = [f"init={first}", "optimiser.lr=1e-12", "optimiser.weight_decay=0", "objective.area.weight=2"]
    second = run_pretraining(config_for("second", *words))
    before, after = load(first).state_dict(), load(second).state_dict()
    assert all(torch.allclose(before[key], after[key], rtol=1e-6, atol=1e-9) for key in before)
    third = load(run_pretraining(config_for("third", *words, "explainer.evidence=5"))).state_dict()
    changed = [key for key in before if not torch.allclose(before[key], third[key], rtol=1e-6, atol=1e-9)]
    assert changed == ["skip.weight"]
    assert float(third["skip.weight"]) == pytest.approx(5)
    with pytest.raises(InputError, match="contains another mask network"):
        run_pretraining(config_for("fourth", f"init={first}", "explainer.width=8"))
    first.rename(tmp_path / "gone")
    assert run_pretraining(config_for("second", *words)) == second, "a resumed run does not need it"


def test_weights_of_a_network_that_reads_other_stages_are_refused(tmp_path: Path):
    about = ClassifierConfig("vit_tiny_patch16_224", "random", num_classes=5, input_size=64)
    classifier = about.build()
    settings = ExplainerConfig(name="vit", stages=[0, 1])
    save_checkpoint(tmp_path, settings.build(classifier), {"classifier": asdict(about), "explainer": asdict(settings)})
    load_initial_weights(settings.build(classifier), str(tmp_path))
    with pytest.raises(InputError, match="contains another mask network"):
        load_initial_weights(ExplainerConfig(name="vit", stages=[8, 11]).build(classifier), str(tmp_path))


def test_a_trunk_that_moved_too_far_to_be_explained_is_a_start_for_training(tmp_path: Path):
    about = ClassifierConfig("vit_tiny_patch16_224", "random", num_classes=5, input_size=64)
    classifier = about.build()
    torch.manual_seed(0)
    weights = {name: value + 0.5 * torch.randn_like(value) for name, value in classifier.model.state_dict().items()}
    torch.save(weights, tmp_path / "moved.pth")
    far = replace(about, weights=str(tmp_path / "moved.pth")).build()
    settings = ExplainerConfig(name="vit")
    explainer = settings.build(classifier)
    save_checkpoint(tmp_path, explainer, {"classifier": asdict(about), "explainer": asdict(settings)})
    with pytest.raises(InputError, match=rf"features differ by .*, from this one: init={tmp_path}$"):
        load(tmp_path, far)
    moved = settings.build(far)
    with pytest.warns(UserWarning, match=r"features differ by \d+%; compare a training from it with one without init="):
        load_initial_weights(moved, str(tmp_path))
    assert all(torch.equal(moved.state_dict()[key], value) for key, value in explainer.state_dict().items())
    half = [0.5, 0.5, 0.5]  # the normalisation of the other one
    another = replace(
        about, name="deit_tiny_patch16_224", weights=str(tmp_path / "moved.pth"), mean=half, std=half
    ).build()
    with pytest.raises(InputError, match=r"train an explainer for this classifier$"):
        load_initial_weights(settings.build(another), str(tmp_path))
