"""A table of models × jobs: what works, and why the rest does not."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ltx.attribution.attribute import attribute
from ltx.bench.conditions import versions
from ltx.bench.model_cases import ModelCase, cases
from ltx.bench.settings import ModelsBench
from ltx.classifier.classifier import Classifier
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import finetune
from ltx.masking.fill import Fill
from ltx.metrics.perturbation import read_logits
from ltx.metrics.registry import PROTOCOLS, Batch, Settings
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.settings import OptimiserConfig
from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError, first_line

JOBS = ("classify", "gradcam", "iia2", "gae", "integrated gradients", "train", "finetune", "evaluate")

YES = "yes"
TRACEBACK = "traceback"


@dataclass
class Row:
    """The results of one model.

    Attributes:
        case: the model.
        cells: for each job `yes`, the message of an `InputError`, or a traceback's type and message.
        name: the classifier's name in messages; empty if it was refused.
        seconds: time of all jobs.
    """

    case: ModelCase
    cells: dict[str, str] = field(default_factory=dict)
    name: str = ""
    seconds: float = 0.0

    @property
    def tracebacks(self) -> list[str]:
        return [f"{self.case.name}, {job}: {cell}" for job, cell in self.cells.items() if cell.startswith(TRACEBACK)]


def measure(config: ModelsBench) -> None:
    """Run all jobs on the selected models, print each row, and write the table as Markdown.

    Raises:
        InputError: a job ended in a traceback; or no model is selected.
    """
    selected = [
        case
        for case in cases()
        if (config.groups is None or case.group in config.groups)
        and (config.names is None or case.name in config.names)
    ]
    if not selected:
        raise InputError(f"groups={config.groups}, names={config.names} select no model")
    rows: list[Row] = []
    for case in selected:
        rows.append(run_case(case))
        print(f"{case.group}: {case.name}: {summary(rows[-1])} ({rows[-1].seconds:.1f} s)", flush=True)
        if config.out is not None:  # after each model, so that an interrupted run keeps its rows
            file = Path(config.out)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, markdown(rows).encode())
    print(f"{len(rows)} models in {sum(row.seconds for row in rows):.0f} s" + (f"; {config.out}" if config.out else ""))
    tracebacks = [line for row in rows for line in row.tracebacks]
    if tracebacks:
        raise InputError(f"{len(tracebacks)} jobs ended in a traceback: {'; '.join(tracebacks[:5])}")


def run_case(case: ModelCase) -> Row:
    """Run every job on one model; jobs after a refused classifier are left out."""
    row, begun = Row(case), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built: list[Classifier] = []
        row.cells["classify"] = _outcome(lambda: built.append(_classify(case)))
        if built:
            classifier = built[0]
            row.name = classifier.name
            images = torch.rand(2, *classifier.blank().shape[1:], generator=torch.Generator().manual_seed(1))
            for job in ("gradcam", "iia2", "gae", "integrated gradients"):
                options: dict[str, int] = {} if job in ("gradcam", "gae") else {"steps": 1}
                method = job.replace(" ", "_")
                row.cells[job] = _outcome(partial(_attribute, classifier, method, images, options))
            trained: list[MaskNetwork] = []
            row.cells["train"] = _outcome(lambda: trained.append(_train(classifier, images)))
            if trained:
                row.cells["finetune"] = _outcome(lambda: _finetune(trained[0], images))
            else:
                row.cells["finetune"] = row.cells["train"]
            row.cells["evaluate"] = _outcome(lambda: _evaluate(classifier, images))
    row.seconds = time.perf_counter() - begun
    return row


def summary(row: Row) -> str:
    """The jobs that work, and the first reason why others do not."""
    refused = {job: cell for job, cell in row.cells.items() if cell != YES}
    if not refused:
        return "everything works"
    return f"{len(row.cells) - len(refused)} of {len(JOBS)} jobs; {', '.join(refused)}: {next(iter(refused.values()))}"


def markdown(rows: Sequence[Row]) -> str:
    """The table, with numbered notes for what is refused."""
    notes: dict[str, int] = {}
    lines = []
    for group in dict.fromkeys(row.case.group for row in rows):
        lines += [f"## {group}", "", f"| model | {' | '.join(JOBS)} |", f"|---|{'---|' * len(JOBS)}"]
        for row in (row for row in rows if row.case.group == group):
            cells = []
            for job in JOBS:
                cell = row.cells.get(job)
                if cell is None:
                    cells.append("–")
                elif cell == YES:
                    cells.append(YES)
                else:
                    note = cell.replace(row.name, "the model") if row.name else cell
                    cells.append(f"no [{notes.setdefault(note, len(notes) + 1)}]")
            options = ", ".join(f"{key}={value}" for key, value in row.case.settings.items())
            lines.append(f"| {row.case.name}{f' ({options})' if options else ''} | {' | '.join(cells)} |")
        lines.append("")
    listed = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([*_head(rows), *lines, "## Notes", "", *listed, ""])


def _head(rows: Sequence[Row]) -> list[str]:
    def works(row: Row, jobs: Iterable[str]) -> bool:
        return all(row.cells.get(job) == YES for job in jobs)

    complete = sum(works(row, JOBS) for row in rows)
    others = sum(works(row, set(JOBS) - {"gae"}) for row in rows) - complete
    packages = ("torch", "timm", "torchvision", "transformers")
    used = ", ".join(f"{name} {version}" for name, version in versions(packages).items())
    return [
        "# Models and jobs",
        "",
        f"`ltx bench models` runs each job on {len(rows)} models with random weights. All jobs work on {complete} of "
        f"them, and all but the attention method `gae` on {others} others. Every refused job has a numbered "
        "note with the message that the user sees.",
        "",
        f"Measured on {datetime.date.today().isoformat()} with {used}. The table shows what runs, not how good the "
        "explanations are.",
        "",
    ]


# -- the jobs ------------------------------------------------------------------------------------------------------


def _outcome(job: Callable[[], object]) -> str:
    try:
        job()
    except InputError as error:
        return str(error)
    except Exception as error:  # a fault of this project: the table must show it
        return f"{TRACEBACK}: {type(error).__name__}: {first_line(error)}"
    return YES


def _classify(case: ModelCase) -> Classifier:
    classifier = case.build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in classifier.model.parameters():  # heads and norms that start from zeros
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        classifier.model.train().eval()
        logits = classifier(classifier.blank(2))
    _check(logits.shape == (2, classifier.num_classes) and bool(logits.isfinite().all()), "logits are not finite")
    return classifier


def _attribute(classifier: Classifier, method: str, images: Tensor, options: dict[str, int]) -> None:
    maps = attribute(method, classifier, images, 1, **options)
    _check(maps.shape == (2, 1, *images.shape[-2:]), f"maps of shape {tuple(maps.shape)}")
    _check(bool(maps.isfinite().all()), "maps are not finite")
    # Grad-CAM shows positive evidence only, and an untrained head can have none for some classes.
    classes = range(classifier.num_classes)
    _check(
        not all(_is_constant(attribute(method, classifier, images, y, **options)) for y in classes), "maps are constant"
    )


def _is_constant(maps: Tensor) -> bool:
    return bool((maps == maps[0, 0, 0, 0]).all())


def _train(classifier: Classifier, images: Tensor) -> MaskNetwork:
    torch.manual_seed(0)
    explainer = ExplainerConfig().build(classifier).train()
    module = LTXPretraining(explainer, Objective(ObjectiveConfig()), Fill(), OptimiserConfig(), max_steps=10)
    _, verdict = module.evaluate_objective(images, torch.Generator().manual_seed(0))
    loss = verdict.loss.mean()
    loss.backward()
    gradients = [parameter.grad for parameter in explainer.parameters() if parameter.grad is not None]
    _check(bool(loss.isfinite()) and any(bool(gradient.any()) for gradient in gradients), "the loss has no gradient")
    return explainer.eval()


def _finetune(explainer: MaskNetwork, images: Tensor) -> None:
    explanation = finetune(explainer, images, 0, steps=1)
    _check(bool(explanation.maps.isfinite().all()), "the mask is not finite")


def _evaluate(classifier: Classifier, images: Tensor) -> None:
    targets = torch.zeros(len(images), dtype=torch.long)
    with torch.no_grad():
        unmasked = read_logits(classifier, classifier(images), targets)
    batch = Batch(["a", "b"], images, targets, unmasked)
    maps = torch.rand(2, 1, *images.shape[-2:], generator=torch.Generator().manual_seed(0))
    protocol = PROTOCOLS["ltx"](Settings(max_batch=16))

    def explain(_: Classifier, pixels: Tensor, __: Tensor) -> Tensor:
        return pixels.mean(1, keepdim=True)

    measured = protocol.measure(classifier, batch, maps, protocol.prepare(classifier, batch), explain)
    collection = protocol.collection()
    collection.update(**measured)
    scores = collection.compute()
    _check(bool(scores), "there are no scores")


def _check(holds: bool, fault: str) -> None:
    if not holds:
        raise RuntimeError(fault)
