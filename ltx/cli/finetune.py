"""`ltx finetune`: explain images with an explainer adapted to each."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

from torch import Tensor

from ltx.checkpoints.folder import identity, located
from ltx.checkpoints.loading import load
from ltx.classifier.class_names import Target
from ltx.cli.report import report_explanations
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.finetuning.settings import FinetuneConfig
from ltx.finetuning.training_defaults import learning_rate, trained_objective
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.results.explanation import Explanation
from ltx.results.settings import ExplainConfig
from ltx.results.streaming import WRITTEN, explain_files
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import PartialFailureError


def finetune_files(config: FinetuneConfig) -> Path:
    """Explain image files with an explainer adapted to each of them.

    Returns:
        The folder of the results.

    Raises:
        InputError: an error of `ltx.load`, `ltx.finetune` or `ltx.results.streaming.explain_files`.
        PartialFailureError: the results are written, but some sources could not be used.
    """
    device = pick_device(config.device)
    folder = located(config.checkpoint)
    explainer = load(folder, device=device, trust=config.trust, **asdict(config.classifier))
    explainer.classifier.fold_norms()
    explainer.scope(config.scope)
    config = replace(config, lr=learning_rate(explainer, config.scope) if config.lr is None else config.lr)
    settings = FinetuneSettings(
        scope=config.scope,
        lr=config.lr,
        objective=Objective(trained_objective(explainer, config.area_weight, config.keep)),
        fill=Fill(config.fill),
        select_by=config.select_by,
        seed=config.seed,
        max_batch=config.batch_size,
        alternate=config.alternate,
        detail=config.detail,
    )

    def explain(images: Tensor, targets: list[Target], names: list[str]) -> Explanation:
        return finetune(explainer, images, targets, config.steps, settings, names=names)

    names = {field.name for field in fields(FinetuneConfig)} - {field.name for field in fields(ExplainConfig)}
    recorded = {key: value for key, value in asdict(config).items() if key in names - {"classifier", "trust"}}
    recorded["explainer_fingerprint"] = identity(folder)[:16]  # the folder may contain another network next time
    done = explain_files(config, explain, explainer.classifier, recorded)
    print(f"{done.count} explanation{'s' * (done.count != 1)} in {config.out}: {WRITTEN[config.save]}")
    report_explanations(config)
    if done.failed:
        raise PartialFailureError([reason for _, reason in done.failed])
    return Path(config.out)
