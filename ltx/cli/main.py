"""`ltx COMMAND …`: find the command, parse its settings, then import the modules that do the work."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ltx.config.command_line import finish, run
from ltx.runtime.errors import suggest


@dataclass(frozen=True)
class Command:
    """A command of `ltx`.

    Attributes:
        function: `module:function`, called with the settings; imported after the settings were parsed.
        schema: `module:class`, the dataclass of the settings; its module must not import torch.
        description: the first lines of `--help`.
    """

    function: str
    schema: str
    description: str

    def run(self, prog: str, argv: Sequence[str]) -> NoReturn:
        """Parse `argv`, call the function and exit; see `ltx.config.command_line.run`."""

        def work(settings: Any) -> None:
            _imported(self.function)(settings)

        run(work, _imported(self.schema), prog, self.description, argv)


COMMANDS: dict[str, Command] = {
    "train": Command(
        "ltx.cli.train:train",
        "ltx.pretraining.settings:TrainConfig",
        "Pretrain an explainer over many unlabelled images.",
    ),
    "finetune": Command(
        "ltx.cli.finetune:finetune_files",
        "ltx.finetuning.settings:FinetuneConfig",
        "Explain images with an explainer that is adapted to each of them.",
    ),
    "attribute": Command(
        "ltx.cli.attribute:attribute_files",
        "ltx.attribution.settings:AttributeConfig",
        "Write attribution maps of image files.",
    ),
    "evaluate": Command(
        "ltx.cli.evaluate:evaluate_methods",
        "ltx.evaluation.settings:EvaluationConfig",
        "Compare explanation methods: faithfulness, localisation and sanity, with confidence intervals. Writes "
        "scores.json, per_image.csv, scores.md, curves.png and gallery.png. Under torchrun the ranks share the work.",
    ),
    "report": Command(
        "ltx.cli.report:report",
        "ltx.report.settings:ReportConfig",
        "Write a page that shows a folder of results: sort, filter, open an image, or compare two folders.",
    ),
    "demo": Command(
        "ltx.cli.demo:demo",
        "ltx.demo.settings:DemoConfig",
        "Serve a web app: explain a photograph, any class of it, refine the explanation, compare methods.",
    ),
    "export": Command(
        "ltx.cli.export:export",
        "ltx.export.settings:ExportConfig",
        "Export an explainer with its classifier: an ONNX file, a torch.export file, or a page that runs in a browser.",
    ),
    "shards": Command(
        "ltx.cli.shards:make_shards",
        "ltx.data.shards.settings:MakeConfig",
        "Pack image files into webdataset shards with a manifest of their counts.",
    ),
}

BENCHMARKS: dict[str, Command] = {
    "attribute": Command(
        "ltx.bench.attribute:measure",
        "ltx.bench.settings:AttributeBench",
        "Time batched IIA2 against a loop of full forward passes.",
    ),
    "data": Command(
        "ltx.bench.data:measure", "ltx.bench.settings:DataBench", "Time decoding and cropping against other loaders."
    ),
    "evaluate": Command(
        "ltx.bench.evaluate:measure",
        "ltx.bench.settings:EvaluateBench",
        "Time the ltx protocol against its forward passes alone and, alternating, against Quantus on the same maps.",
    ),
    "explain": Command(
        "ltx.bench.explain:measure",
        "ltx.bench.settings:ExplainBench",
        "Time masks and explanations against one forward pass of the classifier.",
    ),
    "finetune": Command(
        "ltx.bench.finetune:measure",
        "ltx.bench.settings:FinetuneBench",
        "Time mask and prediction, and finetuning against its lower bound.",
    ),
    "gpu": Command(
        "ltx.bench.gpu.run:measure",
        "ltx.bench.settings:GPUBench",
        "Check equality with the CPU and measure speed on a GPU in one run; device=cpu rehearses it.",
    ),
    "inr": Command(
        "ltx.bench.inr:measure",
        "ltx.bench.settings:INRBench",
        "Masks of any area: time, forward passes and the probability they keep.",
    ),
    "masks": Command(
        "ltx.bench.masks:measure",
        "ltx.bench.settings:MasksBench",
        "Probabilities that a checkpoint's masks keep and remove.",
    ),
    "models": Command(
        "ltx.bench.models:measure",
        "ltx.bench.settings:ModelsBench",
        "Write a table of models and jobs: what works on timm, torchvision, transformers and own modules.",
    ),
    "multiple": Command(
        "ltx.bench.multiple:measure",
        "ltx.bench.settings:MultipleBench",
        "Test whether the search finds both photographs of a pair.",
    ),
    "peers": Command(
        "ltx.bench.peers.run:measure",
        "ltx.bench.settings:PeersBench",
        "Time methods, metrics, loading and finetuning against other packages and plain loops, alternating.",
    ),
    "scale": Command(
        "ltx.bench.scale:measure",
        "ltx.bench.settings:ScaleBench",
        "Images/s by model, precision and processes, and the estimated time of a pretraining on ImageNet.",
    ),
    "train": Command(
        "ltx.bench.train:measure", "ltx.bench.settings:TrainBench", "Time a training step against the sum of its parts."
    ),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `ltx` and `python -m ltx`.

    Args:
        argv: the words after the program's name; None = those of the command line.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["bench"]:
            _dispatch("ltx bench", BENCHMARKS, "benchmark", words[1:])
        if words[:1] == ["--version"]:
            from ltx import __version__

            print(f"ltx {__version__}")
            finish(0)
        _dispatch("ltx", COMMANDS, "command", words)
    except BrokenPipeError:
        finish(141)


def _dispatch(prog: str, commands: Mapping[str, Command], kind: str, words: list[str]) -> NoReturn:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview(prog, commands, kind))
        finish(0)
    if words[0] not in commands:
        known = [*commands, "bench"] if kind == "command" else list(commands)
        near = suggest(words[0], known) or f"; choose one of {', '.join(known)}"
        finish(2, f"error: {words[0]!r} is not a {kind}{near}")
    commands[words[0]].run(f"{prog} {words[0]}", words[1:])


def _overview(prog: str, commands: Mapping[str, Command], kind: str) -> str:
    rows = {name: command.description for name, command in commands.items()}
    if kind == "command":
        rows["bench"] = f"Time one part against its lower bound: {', '.join(BENCHMARKS)}."
    left = max(map(len, rows)) + 4
    lines = [f"usage: {prog} {kind.upper()} [config=FILE.yaml] [key=value ...]", "", f"{kind}s:"]
    for name, description in rows.items():
        first, *others = textwrap.wrap(description, 110 - left)
        lines += [f"  {name:<{left - 2}}{first}", *(" " * left + line for line in others)]
    return "\n".join([*lines, "", f"{prog} {kind.upper()} --help lists every key with its default and meaning."])


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
