"""Small command lines of every command, which read the files of the arena."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.arena import SIZE, Arena


@dataclass(frozen=True)
class Invocation:
    """A command line.

    Attributes:
        words: the command line, given the arena and a folder that does not exist yet.
        again: whether it runs twice, so that the second one reads what the first one wrote.
        explains: whether each of the arena's photographs must be among the results or named by the command.
        cases: number of damaged files that are tried; fewer for commands that take seconds.
        needs: optional packages.
    """

    words: Callable[[Arena, Path], list[str]]
    again: bool = False
    explains: bool = False
    cases: int = 12
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The optional packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def _from(arena: Arena, checkpoint: str, prefix: str = "classifier.") -> list[str]:
    """Words that load a checkpoint."""
    return [f"checkpoint={arena.root}/{checkpoint}", f"{prefix}weights={arena.root}/weights.safetensors"]


def _vit(arena: Arena) -> list[str]:
    return ["models=[test_vit]", f"weights.test_vit={arena.root}/vit.safetensors", SIZE.removeprefix("classifier.")]


def _measured(arena: Arena) -> list[str]:
    return [f"images={arena.root}/photos", "count=2", "repeats=1"]


INVOCATIONS: dict[str, Invocation] = {
    "attribute": Invocation(lambda a, out: a.attribute(a.photos, f"out={out}"), explains=True),
    "attribute maps": Invocation(lambda a, out: a.attribute(a.photos, f"out={out}", "save=maps"), explains=True),
    "attribute tar": Invocation(lambda a, out: a.attribute(f"images={a.root}/photos.tar", f"out={out}")),
    "attribute list": Invocation(lambda a, out: a.attribute(f"images={a.root}/list.csv", f"out={out}")),
    "attribute again": Invocation(lambda a, out: a.attribute(a.photos, f"out={out}"), again=True),
    "attribute maps again": Invocation(lambda a, out: a.attribute(a.photos, f"out={out}", "save=maps"), again=True),
    "finetune": Invocation(lambda a, out: a.finetune(a.photos, f"out={out}"), explains=True),
    "finetune again": Invocation(lambda a, out: a.finetune(a.photos, f"out={out}"), again=True),
    "shards": Invocation(lambda a, out: ["shards", a.photos, f"out={out}"]),
    "shards again": Invocation(lambda a, out: ["shards", a.photos, f"out={out}", "per_shard=3"], again=True),
    "shards of a tar": Invocation(lambda a, out: ["shards", f"shards={a.root}/photos.tar", f"out={out}"]),
    "train": Invocation(
        lambda a, out: a.train(f"config={a.root}/train.yaml", f"data.images={a.root}/train", f"out={out}")
    ),
    "train tar": Invocation(
        lambda a, out: a.train(f"data.shards={a.root}/photos.tar", "data.val_share=0", f"out={out}")
    ),
    "train shards": Invocation(
        lambda a, out: a.train(f"data.shards={a.root}/shards", "data.val_share=0", f"out={out}")
    ),
    "train again": Invocation(lambda a, out: a.train(f"data.images={a.root}/train", f"out={out}"), again=True),
    "evaluate labels": Invocation(
        lambda a, out: a.evaluate(a.photos, "target=label", f"labels={a.root}/list.csv", f"out={out}")
    ),
    "evaluate masks": Invocation(
        lambda a, out: a.evaluate(a.photos, "protocol=localisation", f"masks={a.root}/masks", f"out={out}")
    ),
    "evaluate a checkpoint": Invocation(
        lambda a, out: a.evaluate(a.photos, f"methods=[ltx:{a.root}/checkpoint]", f"out={out}")
    ),
    "evaluate again": Invocation(lambda a, out: a.evaluate(a.photos, f"out={out}"), again=True),
    "report": Invocation(lambda a, out: ["report", f"{a.root}/maps"]),
    "report scores": Invocation(lambda a, out: ["report", f"{a.root}/scores"]),
    "report two": Invocation(lambda a, out: ["report", f"{a.root}/maps", f"{a.root}/refined", f"out={out}.html"]),
    "export onnx": Invocation(
        lambda a, out: ["export", *_from(a, "checkpoint"), f"out={out}/explainer.onnx"],
        cases=6,
        needs=("onnx", "onnxscript", "onnxruntime"),
    ),
    "export pt2": Invocation(lambda a, out: ["export", *_from(a, "inr"), f"out={out}/explainer.pt2"], cases=6),
    "demo": Invocation(
        lambda a, out: ["demo", *_from(a, "checkpoint"), "port=0", "device=cpu"], explains=True, needs=("gradio",)
    ),
    "bench attribute": Invocation(
        lambda a, out: [
            *("bench", "attribute", "classifier.name=test_vit", f"classifier.weights={a.root}/vit.safetensors", SIZE),
            *(*_measured(a), "steps=1", "looped=1", "device=cpu"),
        ]
    ),
    "bench data": Invocation(
        lambda a, out: ["bench", "data", a.photos, "count=8", "side=48", "size=32", "batch_size=2", "repeats=1"]
    ),
    "bench evaluate": Invocation(
        lambda a, out: ["bench", "evaluate", *a.classifier, *_measured(a), "quantus=false", "device=cpu"]
    ),
    "bench explain": Invocation(
        lambda a, out: ["bench", "explain", *_from(a, "checkpoint", ""), *_measured(a), "precisions=[fp32]"]
    ),
    "bench finetune": Invocation(
        lambda a, out: ["bench", "finetune", *_from(a, "checkpoint", ""), *_measured(a), "steps=1"]
    ),
    "bench gpu": Invocation(
        lambda a, out: [
            *("bench", "gpu", "items=[explanations]", *_vit(a), a.photos, "counts=[1]", "steps=1", "device=cpu"),
            *(f"checkpoint={a.root}/checkpoint", f"inr_checkpoint={a.root}/inr", f"out={out}"),
        ],
        cases=6,
    ),
    "bench gpu recipe": Invocation(
        lambda a, out: [
            *("bench", "gpu", "items=[recipe]", *_vit(a), f"recipe={a.root}/train.yaml", "recipe_steps=2"),
            *("recipe_batch=2", f"train_images={a.root}/train", a.photos, "checkpoint=null", "val_limit=2"),
            *("device=cpu", f"out={out}"),
        ],
        cases=6,
    ),
    "bench inr": Invocation(
        lambda a, out: [
            *("bench", "inr", *_from(a, "inr"), a.photos, "count=2", "ways=[one_pass]", "areas=[0.2]", "repeats=0"),
            *("continuity=false", f"compare=[ltx:{a.root}/inr]", "device=cpu"),
        ]
    ),
    "bench masks": Invocation(
        lambda a, out: [
            *("bench", "masks", *_from(a, "checkpoint", ""), a.photos, "limit=2", "steps=[0]", "mosaics=2"),
            *("batch_size=2", "device=cpu"),
        ]
    ),
    "bench models": Invocation(lambda a, out: ["bench", "models", "names=[resnet18]", f"out={out}/models.md"]),
    "bench multiple": Invocation(
        lambda a, out: [
            *("bench", "multiple", *_from(a, "inr"), a.photos, "mosaics=1", "steps=0", "share=0.01", "most=2"),
            *("reaches=[]", "gallery=1", "device=cpu", f"out={out}"),
        ]
    ),
    "bench peers": Invocation(
        lambda a, out: [
            "bench",
            "peers",
            "peers=[integrated_gradients]",
            *_vit(a),
            *_measured(a),
            "device=cpu",
            f"out={out}",
        ]
    ),
    "bench scale": Invocation(
        lambda a, out: ["bench", "scale", "models=[resnet10t]", "variants=[fp32]", "repeats=1", "processes=[]"]
    ),
    "bench train": Invocation(
        lambda a, out: ["bench", "train", *a.classifier, "batch_size=2", "repeats=1", "device=cpu"]
    ),
}
