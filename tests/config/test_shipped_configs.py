"""Every file in `configs/` is complete and valid for its command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ltx import Classifier
from ltx.config.command_line import parse
from ltx.evaluation.methods import parse_name
from ltx.evaluation.settings import EvaluationConfig
from ltx.finetuning.settings import FinetuneConfig
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.pretraining.settings import TrainConfig
from ltx.runtime.errors import InputError

CONFIGS = Path(__file__).parent.parent.parent / "configs"
TRAIN = sorted((CONFIGS / "train").glob("*.yaml"))
FINETUNE = sorted((CONFIGS / "finetune").glob("*.yaml"))
EVALUATE = sorted((CONFIGS / "evaluate").glob("*.yaml"))


@pytest.mark.parametrize("file", TRAIN, ids=lambda file: file.stem)
def test_training_config_is_valid(file: Path):
    config = parse(TrainConfig, [f"config={file}"], "train.py", "")
    Objective(config.objective)
    Fill(config.fill)
    classifier = Classifier(config.classifier.name, weights="random", input_size=64)
    config.explainer.build(classifier)
    assert config.out.startswith("runs/")
    assert config.data.images == "scikit-image", (
        "a config must run in a fresh clone; images are given on the command line"
    )


@pytest.mark.parametrize("file", FINETUNE, ids=lambda file: file.stem)
def test_finetuning_config_is_valid(file: Path):
    config = parse(FinetuneConfig, [f"config={file}"], "finetune.py", "")
    assert yaml.safe_load(file.read_text())["steps"] == config.steps


@pytest.mark.parametrize("file", EVALUATE, ids=lambda file: file.stem)
def test_evaluation_config_is_valid(file: Path):
    config = parse(EvaluationConfig, [f"config={file}"], "evaluate", "")
    assert config.out.startswith("out/")
    for method in config.methods:
        parse_name(method)


def test_mosaics_are_the_recipe_with_three_schedules_that_start_at_its_values():
    config = parse(TrainConfig, [f"config={CONFIGS / 'train' / 'mosaics.yaml'}"], "train.py", "")
    default = parse(TrainConfig, [], "train.py", "")
    area, ranking = config.objective.area, config.objective.ranking
    for schedule, start in [
        (config.data.mosaic, default.data.mosaic),
        (area.weight, default.objective.area.weight),
        (ranking.removed, default.objective.ranking.removed),
    ]:
        assert isinstance(schedule, list)
        assert schedule[0][1] == start
        assert [progress for progress, _ in schedule] == [0.25, 0.4]
    config.data.mosaic, area.weight, ranking.removed = default.data.mosaic, 2.0, 1.0
    config.out = default.out
    assert config == default


def test_default_configs_equal_the_defaults():
    written = parse(TrainConfig, [f"config={CONFIGS / 'train' / 'default.yaml'}"], "train.py", "")
    default = parse(TrainConfig, [], "train.py", "")
    assert written == default
    assert parse(FinetuneConfig, [f"config={CONFIGS / 'finetune' / 'default.yaml'}"], "finetune.py", "") == parse(
        FinetuneConfig, [], "finetune.py", ""
    )
    written_too = parse(EvaluationConfig, [f"config={CONFIGS / 'evaluate' / 'default.yaml'}"], "", "")
    assert written_too == parse(EvaluationConfig, [], "", "")


def test_a_coordinate_network_has_the_defaults_of_its_config():
    written = parse(TrainConfig, [f"config={CONFIGS / 'train' / 'inr.yaml'}"], "ltx train", "")
    default = parse(TrainConfig, ["explainer.name=inr"], "ltx train", "")
    assert written.trainer.max_steps == 60
    for each in (written, default):
        each.out, each.trainer.validate_every = "", 0
    assert written == default


def test_misspelt_key_in_a_config_is_named(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("objective: {aera: {weight: 2}}\n")
    with pytest.raises(InputError, match=r"objective\.aera.*mine\.yaml.*objective\.area"):
        parse(TrainConfig, [f"config={file}"], "train.py", "")
