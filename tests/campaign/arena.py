"""A small world for the campaign: photographs, shards, a classifier's weights, a checkpoint, and results."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
from PIL import Image
from safetensors.torch import save_file

from tests.campaign.oracle import Outcome, call
from tests.support.small_inputs import write_photographs, write_weights
from tests.support.tar_files import write_tar

SEED = int(os.environ.get("LTX_CAMPAIGN_SEED", "0"))
SIZE = "classifier.input_size=32"
TEXTS = (".yaml", ".json", ".jsonl", ".csv")
KINDS = {"a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WEBP", "d.tif": "TIFF", "e.jpg": "JPEG"}


@dataclass
class Arena:
    """Files of a campaign, below one folder; `words` make each command small and fast."""

    root: Path

    def copy(self, place: Path) -> Arena:
        """A copy whose files a case may damage, as if everything had been written there."""
        shutil.copytree(self.root, place)
        for file in place.rglob("*"):
            if file.suffix in TEXTS:
                file.write_text(file.read_text().replace(str(self.root), str(place)))
        return Arena(place)

    @property
    def photos(self) -> str:
        return f"images={self.root}/photos"

    @property
    def classifier(self) -> list[str]:
        return [
            "classifier.name=resnet10t",
            "classifier.num_classes=4",
            SIZE,
            f"classifier.weights={self.root}/weights.safetensors",
            f"classifier.class_names={self.root}/names.txt",
        ]

    def attribute(self, *words: str) -> list[str]:
        return ["attribute", "method=gradcam", *self.classifier, "device=cpu", "batch_size=2", *words]

    def finetune(self, *words: str) -> list[str]:
        weights = f"classifier.weights={self.root}/weights.safetensors"
        return ["finetune", f"checkpoint={self.root}/checkpoint", weights, "steps=1", "device=cpu", *words]

    def train(self, *words: str) -> list[str]:
        return [
            *("train", *self.classifier, "data.workers=0", "data.batch_size=2", "trainer.accelerator=cpu"),
            *("trainer.progress=false", "trainer.max_steps=2", "trainer.validate_every=2", "trainer.overlays=1"),
            *words,
        ]

    def evaluate(self, *words: str) -> list[str]:
        methods = "methods=[gradcam,random]"
        return ["evaluate", methods, *self.classifier, "batch_size=2", "resamples=20", "device=cpu", *words]


def build(root: Path) -> Arena:
    """Write the files that the commands read, and results that they resume from."""
    arena = Arena(root)
    write_weights(root)
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), root / "vit.safetensors")
    (root / "names.txt").write_text("cat\ndog\nbird\nfish\n")
    random = np.random.default_rng(0)
    (root / "photos").mkdir()
    for name, kind in KINDS.items():
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / "photos" / name, kind)
    np.save(root / "photos" / "f.npy", random.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    rows = [f"photos/{name},{number % 4}" for number, name in enumerate([*KINDS, "f.npy"])]
    (root / "list.csv").write_text("\n".join(["file,class_index", *rows]) + "\n")
    members = ((f"{name}", (root / "photos" / name).read_bytes()) for name in KINDS)
    write_tar(root / "photos.tar", members)
    write_photographs(root / "train", (f"{number}.jpg" for number in range(6)), (36, 36))
    (root / "masks").mkdir()
    for name in KINDS:
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 10:30] = 255
        Image.fromarray(mask).save(root / "masks" / f"{Path(name).stem}.png")
    (root / "train.yaml").write_text("trainer:\n  max_steps: 2\ndata:\n  val_share: 0.2\n")
    run(arena, arena.train(f"data.images={root}/train", f"out={root}/checkpoint"))
    run(arena, arena.train(f"data.images={root}/train", "explainer.name=inr", f"out={root}/inr"))
    run(arena, arena.attribute(arena.photos, f"out={root}/maps"))
    run(arena, arena.finetune(arena.photos, f"out={root}/refined"))
    shutil.rmtree(root / "refined/report")  # what a report knows of the results, so that it reads them again
    run(arena, ["shards", f"images={root}/train", f"out={root}/shards", "per_shard=3"])
    run(arena, arena.evaluate(arena.photos, f"out={root}/scores"))
    return arena


def run(arena: Arena, words: list[str]) -> Outcome:
    """Run a command that must succeed."""
    outcome = call(words)
    assert outcome.status == 0, (words, outcome)
    return outcome


def explained(out: Path) -> list[str]:
    """The images with a line in the record of pictures or of maps."""
    files = [file for file in [out / "explanations.jsonl", *(out / "maps").glob("*.jsonl")] if file.is_file()]
    return [json.loads(line)["image"] for file in files for line in file.read_text().splitlines()]
