"""The result: which pixels the predictions rest on, how that was found, and how it is written down and drawn."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ltx.results.masks_by_area import AreaMasks
from ltx.runtime.atomic_files import atomic_write
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import RECORD, TEXT, result_stems, truncate_partial_line

COLOURS = "inferno"  # perceptually uniform, and black where nothing is kept


@dataclass
class Explanation:
    """Explanations of a batch of images.

    Attributes:
        images: `[B, 3, H, W]` in [0, 1], the very pixels that were explained.
        maps: relevance of each pixel, `[B, 1, H, W]`, higher = more relevant; any range.
        targets: the class that is explained, `[B]`.
        labels: its name, one each.
        probability: the class's probability for the whole image, `[B]`.
        method: name of the method.
        mask: `[B, 1, H, W]` in [0, 1], 1 = keep; None for methods that make none.
        probability_kept, probability_removed: the class's probability with only the pixels that the mask keeps and
            with only the others, `[B]`; None without a mask.
        steps: steps of optimisation on these images, 0 = one forward pass.
        seconds: wall time for each image.
        names: the images' paths as they were given; `image_000` … where there are none.
        selected_by: the metric that chose this map among those of all steps; None = the last step. A map that a
            metric chose must not be compared by that metric with maps that it did not.
        fill: what replaced removed pixels for `probability_kept` and `probability_removed`.
        by_area: answers with masks of any area, where the method makes them; `mask` is then one of them.
    """

    images: Tensor
    maps: Tensor
    targets: Tensor
    labels: list[str]
    probability: Tensor
    method: str
    mask: Tensor | None = None
    probability_kept: Tensor | None = None
    probability_removed: Tensor | None = None
    steps: int = 0
    seconds: float = 0.0
    names: list[str] | None = None
    selected_by: str | None = None
    fill: str = "black"
    by_area: AreaMasks | None = None

    def __post_init__(self) -> None:
        count, size = len(self.images), self.images.shape[-2:]
        if self.names is None:
            self.names = [f"image_{index:03d}" for index in range(count)]
        for name, tensor in (("maps", self.maps), ("mask", self.mask)):
            if tensor is not None and tensor.shape != (count, 1, *size):
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {(count, 1, *size)}")
        for name, values in (("labels", self.labels), ("names", self.names), ("targets", self.targets)):
            if len(values) != count:
                raise ValueError(f"{len(values)} {name} for {count} images")

    def __len__(self) -> int:
        return len(self.images)

    def at(self, area: float | Tensor) -> Explanation:
        """This explanation with the mask of another area, one for all images or `[B]`.

        Raises:
            InputError: the method makes no masks of an area, or the area is no share between 0 and 1.
        """
        asked = self._asked()
        mask = asked(area.view(-1, 1) if isinstance(area, Tensor) and area.ndim else area)
        if mask.shape[1] != 1:
            raise InputError(f"area={area}; give one for all images, or a tensor with one for each")
        kept, removed = (asked.kept(part)[:, 0] for part in (mask, 1 - mask))
        return replace(self, mask=mask, probability_kept=kept, probability_removed=removed)

    def record(self, index: int) -> dict[str, Any]:
        """The line of `explanations.jsonl` for one image; without a mask its three numbers are null."""
        assert self.names is not None
        line = {
            "image": self.names[index],
            "target": int(self.targets[index]),
            "label": self.labels[index],
            "probability": _number(self.probability, index),
            "probability_kept": _number(self.probability_kept, index),
            "probability_removed": _number(self.probability_removed, index),
            "mask_mean": None if self.mask is None else float(self.mask[index].detach().float().mean()),
            "method": self.method,
            "steps": self.steps,
            "seconds": self.seconds,
        }
        return line if self.selected_by is None else line | {"selected_by": self.selected_by}

    def save(self, out: str | Path, stems: Sequence[str] | None = None) -> list[Path]:
        """Write `OUT/<stem>.png`, `OUT/<stem>.npz` and a line of `OUT/explanations.jsonl` for each image.

        Where the method makes masks of any area, `OUT/<stem>.areas.png` shows a sweep of them and
        `OUT/<stem>.areas.npz` contains it (see `area_arrays`). Each line names its files by their `stem`.

        Every file is written beside and renamed, and an image's line comes last: where there is a line, its files are
        whole, and a killed process leaves no other trace than a hidden `.part` file.

        Args:
            out: folder, made where there is none.
            stems: file names without suffix, one an image, which may hold folders; None = those of the images, with a
                number where `out` has such files already. Batches of one set of files take theirs from one call of
                `result_stems`, so that equal names do not collide.

        Returns:
            The files that were written, pictures and arrays.

        Raises:
            InputError: stems that are not one an image, or twice the same.
        """
        assert self.names is not None
        out = Path(out)
        names = self.names
        if stems is None:
            wanted = result_stems(names)
            stems = [_free(out, stem) for stem in wanted]
            # A number that was made up, as `image_000` is, has to tell the record's lines apart too.
            names = [stem if name == want else name for name, want, stem in zip(names, wanted, stems, strict=True)]
        if len(stems) != len(self) or len(set(stems)) != len(stems):
            raise InputError(f"stems={list(stems)} for {len(self)} images; give one for each, no two the same")
        cpu = self.on_cpu()
        written = []
        out.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(out / RECORD)
        with (out / RECORD).open("a", **TEXT) as record:
            for index, stem in enumerate(stems):
                picture, arrays = out / f"{stem}.png", out / f"{stem}.npz"
                picture.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(arrays, flushed=False) as file:
                    np.savez_compressed(file, allow_pickle=False, **cpu.arrays(index))
                with atomic_write(picture, flushed=False) as file:
                    cpu.plot(index).savefig(file, format="png", pil_kwargs={"compress_level": 3})
                if self.by_area is not None:
                    with atomic_write(out / f"{stem}.areas.npz", flushed=False) as file:
                        np.savez_compressed(file, allow_pickle=False, **cpu.area_arrays(index))
                    with atomic_write(out / f"{stem}.areas.png", flushed=False) as file:
                        cpu.plot_areas(index).savefig(file, format="png", pil_kwargs={"compress_level": 3})
                line = cpu.record(index) | {"image": names[index], "stem": stem}
                record.write(json.dumps(line, ensure_ascii=False) + "\n")
                record.flush()
                written += [picture, arrays]
        return written

    def arrays(self, index: int = 0) -> dict[str, np.ndarray]:
        """`image` uint8 `[H, W, 3]`, `map` float32 `[H, W]`, and `mask` float32 `[H, W]` where there is one."""
        found = {"image": _pixels(self.images[index]), "map": _plane(self.maps[index])}
        return found if self.mask is None else found | {"mask": _plane(self.mask[index])}

    def area_arrays(self, index: int = 0) -> dict[str, np.ndarray]:
        """The sweep over areas: `areas` float32 `[A]`, `masks` uint8 `[A, H, W]` (255 = keep), `kept` float32 `[A]`,
        the class's probability under each mask.

        Raises:
            InputError: the method makes no masks of a given area.
        """
        sweep = self._asked().sweep
        masks = sweep.masks[index].detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
        kept = sweep.kept[index].detach().float().cpu().numpy()
        return {"areas": np.array(sweep.areas, np.float32), "masks": masks, "kept": kept}

    def plot(self, index: int = 0) -> Figure:
        """Image, map with its scale, and overlay side by side; the title has the class and its probabilities.

        The overlay shows kept pixels as they are, removed ones dark and without colour, and the line where the mask
        is one half. Without a mask, the map stretched to [0, 1] stands for it.
        """
        assert self.names is not None
        arrays = self.arrays(index)
        image, values = arrays["image"], arrays["map"]
        # Widths in inches: three panels, the scale after the second, a margin of 0.05 around all.
        panel, bar, title = 3.1, 0.62, 0.62
        tall = panel * image.shape[0] / image.shape[1]
        wide, high = 3 * panel + bar + 0.2, tall + title + 0.05
        # Without pyplot: no state that grows with every picture.
        figure = Figure(figsize=(wide, high), dpi=100)
        FigureCanvasAgg(figure)

        def place(left: float, width: float) -> Axes:
            return figure.add_axes((left / wide, 0.05 / high, width / wide, tall / high))

        axes = [place(left, panel) for left in (0.05, 0.1 + panel, 0.15 + 2 * panel + bar)]
        unit = self.mask is not None and values.min() >= 0 and values.max() <= 1
        axes[0].imshow(image)
        shown = axes[1].imshow(values, cmap=COLOURS, vmin=0 if unit else None, vmax=1 if unit else None)
        figure.colorbar(shown, cax=place(0.17 + 2 * panel, 0.13)).ax.tick_params(labelsize=8)
        if self.mask is None:
            axes[2].imshow(overlay(image, _stretched(values)))
        else:
            _draw_overlay(axes[2], image, arrays["mask"])
        for axis in axes:
            axis.set_axis_off()
        chances = f"whole {float(self.probability[index]):.3f}"
        for name, chance in (("kept", self.probability_kept), ("removed", self.probability_removed)):
            chances += "" if chance is None else f", {name} {float(chance[index]):.3f}"
        how = f"{self.method}, {self.steps} steps" if self.steps else self.method
        how += f", selected by {self.selected_by}" if self.selected_by else ""
        area = "" if self.mask is None else f", mask mean {float(arrays['mask'].mean()):.2f}"
        heading = f"{self.labels[index]}: {chances}"
        figure.text(0.5, 1 - 0.08 / high, heading, ha="center", va="top", size=12, parse_math=False)
        figure.text(0.5, 1 - 0.36 / high, how + area, ha="center", va="top", size=9, color="0.35", parse_math=False)
        return figure

    def plot_areas(self, index: int = 0) -> Figure:
        """Overlays of masks of growing area, and last the smallest area at which each pixel is kept.

        Raises:
            InputError: the method makes no masks of a given area.
        """
        sweep = self._asked().sweep
        chances = sweep.kept[index].tolist()
        titles = [f"{area:g}: kept {chance:.3f}" for area, chance in zip(sweep.areas, chances, strict=True)]
        masks = sweep.masks[index, :, None].unbind()
        return overlay_row(self.images[index], masks, titles, (sweep.entry[index], "smallest area"))

    def _asked(self) -> AreaMasks:
        if self.by_area is None:
            raise InputError(f"method={self.method} makes no masks of a given area; use explainer.name=inr")
        return self.by_area

    def on_cpu(self) -> Explanation:
        """One transfer for each tensor instead of one for each image and number."""
        moved: dict[str, Any] = {key: v.detach().cpu() if isinstance(v, Tensor) else v for key, v in vars(self).items()}
        return Explanation(**moved)


# -- pictures ------------------------------------------------------------------------------------------------------


def overlay(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Kept pixels as they are, removed ones dark and grey: uint8 `[H, W, 3]` of an image uint8 and a mask in [0, 1]."""
    colours = image.astype(np.float32)
    grey = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    weight = kept[..., None].clip(0, 1)
    return (weight * colours + (1 - weight) * (0.25 * grey[..., None])).round().astype(np.uint8)


def overlay_grid(images: Tensor, masks: Tensor, titles: Sequence[str]) -> np.ndarray:
    """Each image beside its overlay, two pairs a row, as uint8 `[H, W, 3]`.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        masks: `[B, 1, H, W]` in [0, 1].
        titles: one line above each pair.
    """
    columns = min(2, len(images))
    rows = math.ceil(len(images) / columns)
    # Widths in inches; a pair stands 0.1 from its neighbours and 0.25 under the row above, for the title.
    panel = 2.5
    tall = panel * images.shape[-2] / images.shape[-1]
    wide, high = columns * (2 * panel + 0.15), rows * (tall + 0.3)
    figure = Figure(figsize=(wide, high), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        left, bottom = column * (2 * panel + 0.15) + 0.05, high - (row + 1) * (tall + 0.3) + 0.05
        pair = [
            figure.add_axes((place / wide, bottom / high, panel / wide, tall / high))
            for place in (left, left + panel + 0.05)
        ]
        image = _pixels(images[index])
        pair[0].imshow(image)
        _draw_overlay(pair[1], image, _plane(masks[index]))
        for axis in pair:
            axis.set_axis_off()
        middle, above = (left + panel + 0.025) / wide, (bottom + tall + 0.06) / high
        figure.text(middle, above, title, ha="center", va="bottom", size=9, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def overlay_row(
    image: Tensor, masks: Sequence[Tensor], titles: Sequence[str], last: tuple[Tensor, str] | None = None
) -> Figure:
    """Overlays of several masks of one image side by side.

    Args:
        image: `[3, H, W]` in [0, 1].
        masks: `[1, H, W]` each, in [0, 1].
        titles: one above each.
        last: one more panel of values in [0, 1], `[1, H, W]`, low ones bright, and its title.
    """
    pixels = _pixels(image)
    panel, title = 1.6, 0.3  # inches
    tall = panel * pixels.shape[0] / pixels.shape[1]
    texts = [*titles, last[1]] if last else list(titles)
    wide, high = len(texts) * (panel + 0.05) + 0.05, tall + title + 0.05
    figure = Figure(figsize=(wide, high), dpi=100)
    FigureCanvasAgg(figure)
    for place, text in enumerate(texts):
        left = place * (panel + 0.05) + 0.05
        axis = figure.add_axes((left / wide, 0.05 / high, panel / wide, tall / high))
        if place < len(masks):
            _draw_overlay(axis, pixels, _plane(masks[place]))
        elif last is not None:
            axis.imshow(_plane(last[0]), cmap=f"{COLOURS}_r", vmin=0, vmax=1)
        axis.set_axis_off()
        middle, above = (left + panel / 2) / wide, 1 - 0.06 / high
        figure.text(middle, above, text, ha="center", va="top", size=8, parse_math=False)
    return figure


def _draw_overlay(axis: Axes, image: np.ndarray, kept: np.ndarray) -> None:
    axis.imshow(overlay(image, kept))
    if kept.min() < 0.5 < kept.max():
        axis.contour(kept, levels=[0.5], colors="white", linewidths=1.0)


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def _plane(values: Tensor) -> np.ndarray:
    return values[0].detach().float().cpu().numpy()


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.ones_like(values)


def _free(out: Path, stem: str) -> str:
    """The stem, with the first number from 2 on under which `out` has no result yet, if it has one without."""
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    return next(name for name in names if not any((out / f"{name}{end}").exists() for end in (".png", ".npz")))


def _number(values: Tensor | None, index: int) -> float | None:
    return None if values is None else float(values[index])
