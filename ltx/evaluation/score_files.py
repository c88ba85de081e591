"""The files of an evaluation: `scores.json`, `per_image.csv`, `scores.md`, `curves.png`, `gallery.png`."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from ltx.classifier.classifier import Classifier
from ltx.evaluation.figures import draw_curves, draw_gallery
from ltx.evaluation.plan import Evaluation
from ltx.evaluation.results import Results, Score, gather
from ltx.metrics.per_image import PerImageMetric
from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.file_names import TEXT

LISTED = 20  # maximum number of files in a list of scores.md


def write_report(evaluation: Evaluation) -> dict[str, Any]:
    """Write all files of an evaluation from its finished pieces; returns the content of `scores.json`."""
    results = gather(evaluation)
    out = Path(evaluation.config.out)
    scores = as_json(evaluation, results)
    write_atomically(out / "scores.json", (json.dumps(scores, indent=2, ensure_ascii=False) + "\n").encode(**TEXT))
    write_atomically(out / "per_image.csv", per_image_csv(evaluation, results).encode(**TEXT))
    write_atomically(out / "scores.md", as_markdown(evaluation, results).encode(**TEXT))
    figures = {
        "curves.png": draw_curves(results) if results.curves else None,
        "gallery.png": draw_gallery(evaluation, results) if len(next(iter(results.maps.values()))) else None,
    }
    for name, figure in figures.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)  # remove the figure of an earlier evaluation
        else:
            write_atomically(out / name, figure)
    return scores


# -- scores.json ---------------------------------------------------------------------------------------------------


def as_json(evaluation: Evaluation, results: Results) -> dict[str, Any]:
    """The content of `scores.json`, without times, so that equal evaluations give equal bytes."""
    config = evaluation.config
    return {
        "protocol": config.protocol,
        "classifier": evaluation.classifier.name,
        "n": results.n,
        "skipped": len(results.skipped),
        "methods": {
            label: {key: _score(score) for key, score in scores.items()} for label, scores in results.scores.items()
        },
        "differences": {
            key: {f"{a} - {b}": _score(score) for (a, b), score in pairs.items()}
            for key, pairs in results.differences.items()
        },
        "metrics": {
            metric.key: {
                "direction": "higher" if metric.higher_is_better else "lower",
                "meaning": metric.meaning,
                "protocol": metric.protocol,
                "citation": metric.citation,
                "n": results.counted(metric),
            }
            for metric in results.metrics
        },
        "target": evaluation.target,
        "fill": {protocol.name: protocol.fill for protocol in evaluation.protocols},
        "seed": config.seed,
        "precision": evaluation.classifier.precision,
        "weights": evaluation.classifier.weights,
        **({} if evaluation.second is None else {"second": _second(evaluation.second)}),
        "selected_by": {method.label: method.selected_by for method in evaluation.methods if method.selected_by},
        "constant_maps": results.constant,
        "left_out_methods": evaluation.left_out,
        "skipped_images": [{"image": name, "reason": reason} for name, reason in results.skipped],
    }


def _second(classifier: Classifier) -> dict[str, Any]:
    return {"classifier": classifier.name, "weights": classifier.weights, "precision": classifier.precision}


def _score(score: Score) -> dict[str, float | None]:
    # Six decimals are far finer than any interval and coarser than rounding errors of summation.
    return {
        name: None if math.isnan(value) else round(value, 6)
        for name, value in (("mean", score.mean), ("low", score.low), ("high", score.high))
    }


# -- per_image.csv -------------------------------------------------------------------------------------------------


def per_image_csv(evaluation: Evaluation, results: Results) -> str:
    """One line for each image and method: target class, probability and all metrics; empty if the metric skips it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "method", "target", "label", "probability", *[metric.key for metric in results.metrics]])
    columns = {
        label: [metric.scores(rows[metric.key]).tolist() for metric in results.metrics]
        for label, rows in results.rows.items()
    }
    for index, name in enumerate(results.names):
        target = results.targets[index]
        prediction = [target, evaluation.classifier.label(target), f"{results.probabilities[index]:.6g}"]
        for label, values in columns.items():
            cells = [f"{column[index]:.6g}" if math.isfinite(column[index]) else "" for column in values]
            writer.writerow([name, label, *prediction, *cells])
    return text.getvalue()


# -- scores.md -----------------------------------------------------------------------------------------------------


def best_methods(evaluation: Evaluation, results: Results, metric: PerImageMetric) -> list[str]:
    """Labels with the best score.

    Controls, and methods whose maps were selected by a metric, compete only if there are no other methods.
    """
    fair = [m.label for m in evaluation.methods if not m.control and not m.selected_by]
    candidates = fair or [m.label for m in evaluation.methods]
    sign = 1 if metric.higher_is_better else -1
    scored = [label for label in candidates if not math.isnan(results.scores[label][metric.key].mean)]
    best = max((sign * results.scores[label][metric.key].mean for label in scored), default=math.nan)
    return [label for label in scored if sign * results.scores[label][metric.key].mean == best]


def as_markdown(evaluation: Evaluation, results: Results) -> str:
    """The content of `scores.md`: scores, differences to the best method, and the conditions."""
    best = {metric.key: best_methods(evaluation, results, metric) for metric in results.metrics}
    fills = ", ".join(f"{protocol.name}: {protocol.fill}" for protocol in evaluation.protocols)
    config, second, explained = evaluation.config, evaluation.second, results.photographs
    header = ["method", *[f"{metric.key} {metric.arrow}" for metric in results.metrics]]
    units = "images" if explained is None else f"{len(explained.unique())} photographs explained"
    lines = [
        f"# {evaluation.classifier.name}, {config.protocol} protocol",
        "",
        f"n = {results.n} images, {len(results.skipped)} skipped; target: {evaluation.target}; fill: {fills}; "
        f"classifier in {evaluation.classifier.precision}; seed {config.seed}; weights: "
        f"{evaluation.classifier.weights or 'default'}."
        + ("" if second is None else f" Second classifier: {second.name}, {second.weights or 'default'} weights."),
        f"Means with 95 % bootstrap intervals ({config.resamples} resamples of the {units}); bold = best method "
        "(controls and maps selected by a metric do not compete).",
        "",
        *_table(
            header,
            [
                [_label(evaluation, label)]
                + [_cell(m, results.scores[label][m.key], label in best[m.key]) for m in results.metrics]
                for label in results.scores
            ],
        ),
        "",
    ]
    if len(results.scores) > 1:
        lines += [
            "## Difference to the best method",
            "",
            "Paired over images; `*` = the interval excludes 0.",
            "",
            *_table(
                header,
                [
                    [_label(evaluation, label)] + [_difference(results, m, label, best[m.key]) for m in results.metrics]
                    for label in results.scores
                ],
            ),
            "",
        ]
    lines += ["## Metrics", "", *(_definition(results, metric) for metric in results.metrics)]
    if any(method.selected_by for method in evaluation.methods):
        lines += ["", "† The maps of this method were selected by a metric of the same kind as those reported."]
    if results.constant:
        lines += ["", "## Constant maps", "", "These maps do not rank pixels; the scores include them.", ""]
        for label, names in results.constant.items():
            more = f" and {len(names) - LISTED} more, in scores.json" if len(names) > LISTED else ""
            lines.append(f"- {label}: {len(names)} of {results.n} images: {', '.join(names[:LISTED])}{more}")
    if evaluation.left_out:
        lines += ["", "## Methods left out", "", *[f"- {label}: {why}" for label, why in evaluation.left_out.items()]]
    if results.skipped:
        lines += ["", "## Images skipped", "", *[f"- {why}" for _, why in results.skipped[:LISTED]]]
        if len(results.skipped) > LISTED:
            lines.append(f"- and {len(results.skipped) - LISTED} more, in scores.json")
    return "\n".join(lines) + "\n"


def _definition(results: Results, metric: PerImageMetric) -> str:
    skipped = results.n - results.counted(metric)
    skips = f" Its definition skips {skipped} of {results.n} images." if skipped else ""
    return f"- **{metric.key}** {metric.arrow} {metric.meaning} ({metric.citation}).{skips}"


def _label(evaluation: Evaluation, label: str) -> str:
    method = next(method for method in evaluation.methods if method.label == label)
    return f"{label} (control)" if method.control else f"{label} †" if method.selected_by else label


def _cell(metric: PerImageMetric, score: Score, is_best: bool) -> str:
    if math.isnan(score.mean):
        return "–"
    mean, low, high = (_number(value, metric.decimals) for value in (score.mean, score.low, score.high))
    return f"{f'**{mean}**' if is_best else mean} [{low}, {high}]"


def _difference(results: Results, metric: PerImageMetric, label: str, best: list[str]) -> str:
    if label in best or not best:
        return "best" if best else "–"
    pairs = results.differences[metric.key]
    score = pairs.get((label, best[0]))
    if score is None:
        reverse = pairs[best[0], label]
        score = Score(-reverse.mean, -reverse.high, -reverse.low)
    several = results.counted(metric) > 1  # one image does not give an interval
    star = " *" if several and (score.low > 0 or score.high < 0) else ""
    mean, low, high = (_number(value, metric.decimals, "+") for value in (score.mean, score.low, score.high))
    return f"{mean} [{low}, {high}]{star}"


def _number(value: float, decimals: int, sign: str = "") -> str:
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"  # adding 0.0 turns -0.0 into 0.0


def _table(header: list[str], body: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)]
