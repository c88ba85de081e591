"""Figures of an evaluation: mean curves with confidence bands, and maps overlaid on images."""

from __future__ import annotations

import io
import math

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ltx.evaluation.plan import Evaluation
from ltx.evaluation.results import Results
from ltx.results.pictures import displayed, pixels_of


def draw_curves(results: Results) -> bytes:
    """Draw a PNG with one panel for each metric that has a curve: the mean over images with its 95 % interval."""
    metrics = [metric for metric in results.metrics if metric.key in results.curves]
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = mpl.colormaps["tab10" if len(results.scores) <= 10 else "tab20"].colors  # type: ignore[attr-defined]  # a ListedColormap
    for axis, metric in zip(axes, metrics, strict=False):
        steps = 100 * np.asarray(metric.steps)
        for place, (label, curve) in enumerate(results.curves[metric.key].items()):
            mean, low, high = curve.numpy()
            colour = colours[place % len(colours)]
            axis.plot(steps, mean, label=shortened(label, 40), color=colour, linewidth=1.4)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(f"{metric.key} {metric.arrow}", fontsize=10)
        axis.set_xlabel("pixels removed, %")
        axis.set_ylabel(metric.meaning.split(",")[0])
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8, frameon=False)
    return _png(figure)


def draw_gallery(evaluation: Evaluation, results: Results) -> bytes:
    """Draw a PNG with one row for each of the first images: the image, then the map of each method over it."""
    count = len(next(iter(results.maps.values())))
    images: list[np.ndarray] = []
    for chunk in range(len(evaluation.samples)):
        if len(images) >= count:
            break
        images += [displayed(pixels_of(image)) for image in evaluation.samples.load(chunk).images]
    columns = 1 + len(results.maps)
    height, width = images[0].shape[:2]
    figure = Figure(figsize=(1.7 * columns, 1.7 * count * height / width + 0.5), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for row in range(count):
        label = evaluation.classifier.label(results.targets[row])
        axes[row, 0].imshow(images[row])
        axes[row, 0].set_title(f"{shortened(label, 24)} {results.probabilities[row]:.2f}", fontsize=7)
        for column, (method, maps) in enumerate(results.maps.items(), start=1):
            axes[row, column].imshow(images[row].mean(2), cmap="gray", vmin=0, vmax=255)
            axes[row, column].imshow(maps[row].astype(np.float32), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            if maps[row].min() == maps[row].max():
                box = axes[row, column].transAxes
                axes[row, column].text(0.5, 0.5, "constant", ha="center", transform=box, color="white", size=7)
            if row == 0:
                axes[row, column].set_title(shortened(method, 30), fontsize=7)
    for axis in axes.flatten():
        axis.set_axis_off()
    return _png(figure)


def shortened(text: str, length: int) -> str:
    """Shorten a text by cutting its middle, because names of methods often differ only at their ends."""
    half = length // 2
    return text if len(text) <= length else f"{text[: length - half - 1]}…{text[-half:]}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
