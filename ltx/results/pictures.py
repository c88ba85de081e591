"""Pictures of explanations: overlays, grids, and the three panels of a result."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = "inferno"  # perceptually uniform, and black where nothing is kept


def panels(image: np.ndarray, values: np.ndarray, mask: np.ndarray | None, heading: str, caption: str) -> Figure:
    """Draw image, map with colour bar, and overlay side by side.

    Args:
        image: uint8 `[H, W, C]`, see `displayed`.
        values: the map, `[H, W]`.
        mask: `[H, W]` in [0, 1]; None = the map, scaled to [0, 1].
        heading: title.
        caption: line below the title.
    """
    image = displayed(image)
    # Sizes in inches: three panels, a colour bar after the second, a margin of 0.05 around all.
    panel, bar, title = 3.1, 0.62, 0.62
    panel_height = panel * image.shape[0] / image.shape[1]
    width, height = 3 * panel + bar + 0.2, panel_height + title + 0.05
    figure = _figure(width, height)

    def place(left: float, wide: float) -> Axes:
        return figure.add_axes((left / width, 0.05 / height, wide / width, panel_height / height))

    axes = [place(left, panel) for left in (0.05, 0.1 + panel, 0.15 + 2 * panel + bar)]
    in_unit_range = mask is not None and values.min() >= 0 and values.max() <= 1
    axes[0].imshow(image)
    heat_map = axes[1].imshow(
        values, cmap=COLOURS, vmin=0 if in_unit_range else None, vmax=1 if in_unit_range else None
    )
    if values.min() == values.max():
        axes[1].text(0.5, 0.5, "constant map", ha="center", transform=axes[1].transAxes, color="white", size=12)
    figure.colorbar(heat_map, cax=place(0.17 + 2 * panel, 0.13)).ax.tick_params(labelsize=8)
    if mask is None:
        axes[2].imshow(overlay(image, scaled(values)))
    else:
        _draw_overlay(axes[2], image, mask)
    for axis in axes:
        axis.set_axis_off()
    figure.text(0.5, 1 - 0.08 / height, heading, ha="center", va="top", size=12, parse_math=False)
    figure.text(0.5, 1 - 0.36 / height, caption, ha="center", va="top", size=9, color="0.35", parse_math=False)
    return figure


def overlay(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Show kept pixels unchanged, removed ones dark and grey.

    Args:
        image: uint8 `[H, W, 3]`.
        kept: mask in [0, 1], `[H, W]`.

    Returns:
        uint8 `[H, W, 3]`.
    """
    colours = image.astype(np.float32)
    grey = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    weight = kept[..., None].clip(0, 1)
    return np.asarray((weight * colours + (1 - weight) * (0.25 * grey[..., None])).round(), np.uint8)


def overlay_grid(images: Tensor, masks: Tensor, titles: Sequence[str]) -> np.ndarray:
    """Draw each image next to its overlay, two pairs per row.

    Args:
        images: `[B, C, H, W]` in [0, 1].
        masks: `[B, 1, H, W]` in [0, 1].
        titles: one line above each pair.

    Returns:
        uint8 `[H, W, 3]`.
    """
    columns = min(2, len(images))
    rows = math.ceil(len(images) / columns)
    # Sizes in inches: 0.1 between pairs, 0.25 above each row for the title.
    panel = 2.5
    panel_height = panel * images.shape[-2] / images.shape[-1]
    width, height = columns * (2 * panel + 0.15), rows * (panel_height + 0.3)
    figure = _figure(width, height)
    canvas = FigureCanvasAgg(figure)
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        left, bottom = column * (2 * panel + 0.15) + 0.05, height - (row + 1) * (panel_height + 0.3) + 0.05
        pair = [
            figure.add_axes((place / width, bottom / height, panel / width, panel_height / height))
            for place in (left, left + panel + 0.05)
        ]
        image = displayed(pixels_of(images[index]))
        pair[0].imshow(image)
        _draw_overlay(pair[1], image, plane_of(masks[index]))
        for axis in pair:
            axis.set_axis_off()
        middle, above = (left + panel + 0.025) / width, (bottom + panel_height + 0.06) / height
        figure.text(middle, above, title, ha="center", va="bottom", size=9, parse_math=False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def overlay_row(
    image: Tensor, masks: Sequence[Tensor], titles: Sequence[str], last: tuple[Tensor, str] | None = None
) -> Figure:
    """Draw overlays of several masks of one image side by side.

    Args:
        image: `[C, H, W]` in [0, 1].
        masks: `[1, H, W]` each, in [0, 1].
        titles: one above each.
        last: values in [0, 1], `[1, H, W]`, and the title of one more panel that shows them, low ones bright.
    """
    pixels = displayed(pixels_of(image))
    panel, title = 1.6, 0.3  # inches
    panel_height = panel * pixels.shape[0] / pixels.shape[1]
    texts = [*titles, last[1]] if last else list(titles)
    width, height = len(texts) * (panel + 0.05) + 0.05, panel_height + title + 0.05
    figure = _figure(width, height)
    for place, text in enumerate(texts):
        left = place * (panel + 0.05) + 0.05
        axis = figure.add_axes((left / width, 0.05 / height, panel / width, panel_height / height))
        if place < len(masks):
            _draw_overlay(axis, pixels, plane_of(masks[place]))
        elif last is not None:
            axis.imshow(plane_of(last[0]), cmap=f"{COLOURS}_r", vmin=0, vmax=1)
        axis.set_axis_off()
        middle, above = (left + panel / 2) / width, 1 - 0.06 / height
        figure.text(middle, above, text, ha="center", va="top", size=8, parse_math=False)
    return figure


def displayed(pixels: np.ndarray) -> np.ndarray:
    """RGB for people: a grey image in three channels, the first three channels of one with more.

    Args:
        pixels: uint8 `[H, W, C]`. Of two channels, the first is shown.

    Returns:
        uint8 `[H, W, 3]`.
    """
    return pixels[..., :3] if pixels.shape[2] > 2 else np.repeat(pixels[..., :1], 3, axis=2)


def pixels_of(image: Tensor) -> np.ndarray:
    """Convert an image `[C, H, W]` in [0, 1] to uint8 `[H, W, C]`."""
    return np.asarray(image.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu())


def plane_of(values: Tensor) -> np.ndarray:
    """Convert a map `[1, H, W]` to float32 `[H, W]`."""
    return np.asarray(values[0].detach().float().cpu())


class NotebookFigure(Figure):
    """A figure that a notebook displays although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, without pyplot, which would keep every figure alive."""
    figure = NotebookFigure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    return figure


def _draw_overlay(axis: Axes, image: np.ndarray, kept: np.ndarray) -> None:
    axis.imshow(overlay(image, kept))
    if kept.min() < 0.5 < kept.max():
        axis.contour(kept, levels=[0.5], colors="white", linewidths=1.0)


def scaled(values: np.ndarray, constant: float = 1.0) -> np.ndarray:
    """Scale a map to [0, 1] for a picture.

    A map with negative values is drawn from zero: what speaks against the class is black, not a middle colour.

    Args:
        values: `[H, W]`.
        constant: value of a constant map in the picture.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.full_like(values, constant)
    low = max(low, 0.0)
    return np.asarray((values.clip(min=low) - low) / (high - low)) if high > low else np.zeros_like(values)
