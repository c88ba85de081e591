"""Checkpoints by name: written by wandb in offline mode, served by a local substitute of its registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from ltx import InputError, load
from ltx.pretraining.run import run_pretraining
from tests.support.small_inputs import write_photographs, write_weights
from tests.support.small_trainings import small_training_config, with_weights


class Registry:
    """The two wandb calls that `fetch` makes, over local folders: `Api().artifact(place).download(root)`."""

    versions: dict[str, Path]
    reachable = True
    downloads = 0
    meanwhile: Callable[[], object] | None = None  # called once, while a file is half written

    def artifact(self, place: str) -> Any:
        if not Registry.reachable:
            raise wandb.errors.CommError("no network")
        if place not in Registry.versions:
            raise wandb.errors.CommError(f"artifact '{place}' not found")
        return Stored(Registry.versions[place])


class Stored:
    version = "v0"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def download(self, root: str) -> str:
        Registry.downloads += 1
        for name in ("config.yaml", "explainer.safetensors", "README.md"):
            Path(root).mkdir(parents=True, exist_ok=True)
            content = (self.folder / name).read_bytes()
            with (Path(root) / name).open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                meanwhile, Registry.meanwhile = Registry.meanwhile, None
                if meanwhile is not None:
                    meanwhile()
                file.write(content[len(content) // 2 :])
        return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_weights(folder)
    write_photographs(folder / "photos", (f"{index}.png" for index in range(5)), (70, 70))
    words = ["data.batch_size=2", "trainer.max_steps=2", "trainer.validate_every=2", "trainer.overlays=1"]
    words += [*with_weights(folder / "weights.safetensors"), "wandb.mode=offline", "wandb.aliases=[latest,best]"]
    return run_pretraining(small_training_config(folder / "photos", folder / "run", *words))


@pytest.fixture
def registry(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Registry]:
    Registry.versions = {f"me/ltx/explainer:{alias}": trained for alias in ("latest", "best", "v0")}
    Registry.reachable, Registry.downloads, Registry.meanwhile = True, 0, None
    monkeypatch.setattr(wandb, "Api", Registry)
    monkeypatch.setenv("LTX_CACHE", str(tmp_path / "cache"))
    return Registry


def test_the_offline_run_contains_overlays_masks_a_table_and_the_artifact(trained: Path, eventually) -> None:
    (run,) = trained.glob("wandb/offline-run-*")
    written = " ".join(str(file) for file in run.rglob("*"))
    assert "media/images/masks_" in written
    assert ".mask.png" in written
    assert "media/table/explanations_" in written
    (log,) = run.glob("*.wandb")
    for word in (b"explainer.safetensors", b"best", b"latest"):
        assert eventually(lambda word=word: word in log.read_bytes())


def test_an_explainer_loaded_by_name_gives_the_same_maps_to_the_bit(trained: Path, registry: type[Registry]) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    near, far = load(trained), load("wandb:me/ltx/explainer:best")
    assert torch.equal(near.explain(images).maps, far.explain(images).maps)
    load("wandb:me/ltx/explainer")
    assert registry.downloads == 1, "two names of one version are downloaded once"


def test_processes_that_download_at_once_each_load_a_complete_checkpoint(
    trained: Path, registry: type[Registry], tmp_path: Path
) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    others = []

    def another() -> None:
        others.append(load("wandb:me/ltx/explainer:v0"))

    def another_and_a_third() -> None:
        another()
        registry.meanwhile = another  # at the next file of the first download

    registry.meanwhile = another_and_a_third
    mine = load("wandb:me/ltx/explainer:v0")
    assert registry.downloads == 2, "the third used what the second had downloaded"
    assert len(others) == 2
    for explainer in (mine, *others):
        assert torch.equal(explainer.explain(images).maps, load(trained).explain(images).maps)
    assert [entry.name for entry in (tmp_path / "cache/me/ltx/explainer").iterdir() if entry.is_dir()] == ["v0"]


def test_an_interrupted_download_leaves_nothing(registry: type[Registry], tmp_path: Path) -> None:
    def broken() -> None:
        raise ConnectionError("connection reset")

    registry.meanwhile = broken
    with pytest.raises(InputError, match=r"cannot be fetched .*connection reset"):
        load("wandb:me/ltx/explainer:v0")
    assert list((tmp_path / "cache/me/ltx/explainer").iterdir()) == []
    load("wandb:me/ltx/explainer:v0")


def test_the_cache_is_used_without_a_network(registry: type[Registry]) -> None:
    with pytest.raises(InputError, match=r"explainer:v7 cannot be fetched .*not found"):
        load("wandb:me/ltx/explainer:v7")
    load("wandb:me/ltx/explainer:latest")
    registry.reachable = False
    with pytest.warns(UserWarning, match=r"explainer:latest cannot be looked up \(no network\); using v0"):
        load("wandb:me/ltx/explainer:latest")
    load("wandb:me/ltx/explainer:v0")
    with pytest.raises(InputError, match=r"explainer:best cannot be fetched \(no network\); .*wandb login"):
        load("wandb:me/ltx/explainer:best")
    with pytest.raises(InputError, match="write wandb:ENTITY/PROJECT/NAME:ALIAS"):
        load("wandb:explainer")
