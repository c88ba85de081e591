"""Part 1: malformed files given to every command, and wrong tensors given to every public function."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.campaign.arena import KINDS, Arena, explained
from tests.campaign.mutations import mutated, mutated_text
from tests.campaign.oracle import call, faults, partial_files, unaccounted

pytestmark = pytest.mark.campaign


@dataclass(frozen=True)
class Target:
    """A file to damage, and the command that reads it.

    Attributes:
        file: path below the arena.
        command: name of the case in `words`.
        text: whether to damage it as text, in half of the cases.
    """

    file: str
    command: str
    text: bool = False


TARGETS = [
    *(Target(f"photos/{name}", "attribute") for name in [*KINDS, "f.npy"]),
    *(Target(f"photos/{name}", "finetune") for name in ("a.jpg", "d.tif")),
    *(Target(f"photos/{name}", "shards") for name in ("b.png", "c.webp")),
    Target("photos.tar", "attribute tar"),
    Target("photos.tar", "count tar"),
    Target("photos.tar", "train tar"),
    Target("list.csv", "attribute list", text=True),
    Target("list.csv", "evaluate labels", text=True),
    Target("names.txt", "attribute", text=True),
    Target("weights.safetensors", "attribute"),
    Target("checkpoint/explainer.safetensors", "finetune"),
    Target("checkpoint/config.yaml", "finetune", text=True),
    Target("checkpoint/last.ckpt", "resume"),
    Target("train.yaml", "train yaml", text=True),
    Target("train/3.jpg", "train yaml"),
    Target("maps/explanations.jsonl", "attribute again", text=True),
    Target("maps/settings.yaml", "attribute again", text=True),
    Target("maps/a.npz", "report"),
    Target("maps/explanations.jsonl", "report", text=True),
    Target("shards/manifest.json", "train shards", text=True),
    Target("shards/making.json", "shards again", text=True),
    Target("shards/000000.tar", "train shards"),
    Target("masks/a.png", "evaluate masks"),
    Target("scores/partial/*.npz", "evaluate again"),
    Target("scores/scores.json", "report scores", text=True),
]
CASES = [(target, number) for number in range(10) for target in TARGETS][:300]


def words(arena: Arena, command: str, out: Path) -> list[str]:
    root = arena.root
    return {
        "attribute": lambda: arena.attribute(f"images={root}/photos", f"out={out}"),
        "attribute tar": lambda: arena.attribute(f"images={root}/photos.tar", f"out={out}"),
        "attribute list": lambda: arena.attribute(f"images={root}/list.csv", f"out={out}"),
        "attribute again": lambda: arena.attribute(f"images={root}/photos", f"out={root}/maps"),
        "finetune": lambda: arena.finetune(f"images={root}/photos", f"out={out}"),
        "shards": lambda: ["shards", f"images={root}/photos", f"out={out}"],
        "shards again": lambda: ["shards", f"images={root}/train", f"out={root}/shards", "per_shard=3"],
        "count tar": lambda: ["shards", f"shards={root}/photos.tar", f"out={out}"],
        "train tar": lambda: arena.train(f"data.shards={root}/photos.tar", "data.val_share=0", f"out={out}"),
        "train shards": lambda: arena.train(f"data.shards={root}/shards", "data.val_share=0", f"out={out}"),
        "train yaml": lambda: arena.train(f"config={root}/train.yaml", f"data.images={root}/train", f"out={out}"),
        "resume": lambda: arena.train(f"data.images={root}/train", f"out={root}/checkpoint"),
        "evaluate labels": lambda: arena.evaluate(
            f"images={root}/photos", "target=label", f"labels={root}/list.csv", f"out={out}"
        ),
        "evaluate masks": lambda: arena.evaluate(
            f"images={root}/photos", "protocol=localisation", f"masks={root}/masks", f"out={out}"
        ),
        "evaluate again": lambda: arena.evaluate(f"images={root}/photos", f"out={root}/scores"),
        "report": lambda: ["report", f"{root}/maps"],
        "report scores": lambda: ["report", f"{root}/scores"],
    }[command]()


def names_of(file: Path, root: Path, command: str) -> list[str]:
    """What an error about this file may name: the file, its folder, or the setting that it was given by."""
    settings = {
        "names.txt": ["class_names", "classes"],
        "weights.safetensors": ["weights"],
        "list.csv": ["list.csv", "images", "photos"],
        "train.yaml": ["trainer", "data", "val_share", "max_steps"],
        "config.yaml": ["checkpoint"],
        "settings.yaml": ["maps"],
        "manifest.json": ["shards"],
        "making.json": ["shards"],
    }
    return [file.name, file.parent.name, *settings.get(file.name, [])]


def keeps_order(how: str, file: Path) -> bool:
    """Whether a damaged tar file has its members in their order, and was not cut between two, which is valid."""
    return set(how.split("+")) <= {"flipped", "flipped_header", "cut"} and (
        "cut" not in how or file.stat().st_size % 512 > 0
    )


def case_id(value: Target | int) -> str:
    return str(value) if isinstance(value, int) else f"{value.command}:{value.file}"


@pytest.mark.parametrize(("target", "number"), CASES, ids=case_id)
def test_malformed_file(arena: Arena, place: Path, rng: random.Random, target: Target, number: int) -> None:
    case = arena.copy(place)
    try:
        if target.command == "evaluate again":  # pieces are found by the paths of the images
            assert call(words(case, target.command, place / "out")).status == 0
        file = sorted(case.root.glob(target.file))[number % len(sorted(case.root.glob(target.file)))]
        if target.text and rng.random() < 0.5:
            text, how = mutated_text(file.read_text(), rng)
            file.write_text(text)
        else:
            content, how = mutated(file.read_bytes(), rng)
            file.write_bytes(content)
        out = place / "out"
        command = words(case, target.command, out)
        if target.command.startswith("attribute") and target.command != "attribute again" and number % 2:
            command.append("save=maps")
        outcome = call(command)
        found = faults(outcome, names_of(file, case.root, target.command))
        results = out if out.exists() else case.root / "maps"
        if out.exists():
            found += partial_files(out)
        if outcome.status in (0, 3) and target.command in ("attribute", "finetune", "attribute again"):
            images = [str(case.root / "photos" / name) for name in [*KINDS, "f.npy"]]
            done = explained(results) if target.command != "attribute again" else images
            found += unaccounted(images, done, outcome)
        if outcome.status == 0 and target.command == "attribute tar" and keeps_order(how, file):
            found += unaccounted([f"{file}/{name}" for name in KINDS], explained(out), outcome)
        assert not found, f"{how} of {target.file}: {found}\n{outcome.err[-600:]}\n{outcome.trace[-1500:]}"
    finally:
        shutil.rmtree(place, ignore_errors=True)
