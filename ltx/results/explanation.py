"""The result of a method: the pixels that predictions rest on, how they were computed, and the files written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ltx.results.masked_probabilities import ReadOnce
from ltx.results.masks_by_area import AreaMasks
from ltx.results.pictures import overlay_row, panels, pixels_of, plane_of
from ltx.runtime.atomic_files import atomic_write, writing
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import RECORD, TEXT, free_name, result_stems, truncate_partial_line
from ltx.runtime.tensor_arguments import Expected, check_tensors

TENSORS = {
    "images": Expected.parsed("float [B, C, H, W]"),
    "targets": Expected.parsed("real [B]"),
    "probability": Expected.parsed("float [B]"),
    "maps": Expected.parsed("float [B, 1, H, W]"),
    "mask": Expected.parsed("float [B, 1, H, W]"),
}


@dataclass
class Explanation:
    """Explanations of a batch of images.

    Attributes:
        images: `[B, 3, H, W]` in [0, 1], the exact pixels that were explained.
        maps: relevance of each pixel, `[B, 1, H, W]`, higher = more relevant; any range.
        targets: target classes, `[B]`.
        labels: their names, one per image.
        probability: probability of the target class for the full image, `[B]`.
        method: name of the method.
        mask: `[B, 1, H, W]` in [0, 1], 1 = keep; None for methods without masks.
        probability_kept: probability of the target class with only the pixels that the mask keeps, `[B]`; None
            without a mask. Given as a function without arguments, it is computed when first read.
        probability_removed: the same with only the other pixels.
        steps: optimisation steps on these images; 0 = one forward pass.
        seconds: wall time per image.
        names: paths of the images as the user gave them; by default `image_000`, `image_001`, …
        selected_by: the metric that selected this map among those of all steps; None = the last step. Such a map must
            not be compared by that metric with maps that were not selected by it.
        fill: fill for removed pixels in `probability_kept` and `probability_removed`.
        by_area: masks of any area, for methods that support them; `mask` is one of them.
    """

    images: Tensor
    maps: Tensor
    targets: Tensor
    labels: list[str]
    probability: Tensor
    method: str
    mask: Tensor | None = None
    probability_kept: ReadOnce = ReadOnce()  # noqa: RUF009  a descriptor, no shared value
    probability_removed: ReadOnce = ReadOnce()  # noqa: RUF009  a descriptor, no shared value
    steps: int = 0
    seconds: float = 0.0
    names: list[str] | None = None
    selected_by: str | None = None
    fill: str = "black"
    by_area: AreaMasks | None = None

    def __post_init__(self) -> None:
        check_tensors(TENSORS, vars(self))
        count = len(self.images)
        if self.names is None:
            self.names = [f"image_{index:03d}" for index in range(count)]
        for name, values in (("labels", self.labels), ("names", self.names)):
            if len(values) != count:
                raise ValueError(f"{len(values)} {name} for {count} images")

    def __len__(self) -> int:
        return len(self.images)

    def at(self, area: float | Tensor) -> Explanation:
        """This explanation with the mask of another area.

        Args:
            area: share of the image in (0, 1), one for all images or one each, `[B]`.

        Raises:
            InputError: the method has no masks of a given area, or the area is outside (0, 1).
        """
        by_area = self._area_masks()
        mask = by_area(area.view(-1, 1) if isinstance(area, Tensor) and area.ndim else area)
        if mask.shape[1] != 1:
            raise InputError(f"area={area}; give one for all images, or a tensor with one for each")
        kept, removed = (partial(_probability, by_area, part) for part in (mask, 1 - mask))
        return replace(self, mask=mask, probability_kept=kept, probability_removed=removed)

    def record(self, index: int) -> dict[str, Any]:
        """The line of `explanations.jsonl` for one image; without a mask, the mask's three numbers are null."""
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

    def save(
        self,
        out: str | Path,
        stems: Sequence[str] | None = None,
        extra: Sequence[dict[str, Any]] | None = None,
    ) -> list[Path]:
        """Write `OUT/<stem>.png`, `OUT/<stem>.npz` and a line of `OUT/explanations.jsonl` for each image.

        For methods with masks of any area, `OUT/<stem>.areas.png` shows a sweep over areas and `OUT/<stem>.areas.npz`
        contains it (see `area_arrays`). Each line names its files by their `stem`.

        Every file is written under a hidden temporary name and renamed, and an image's line is written last. So an
        image with a line has complete files, and a killed process leaves at most a hidden `.part` file behind.

        Args:
            out: folder; created if it does not exist.
            stems: file names without suffix, one per image; they may contain folders. None = the images' own, numbered
                if `out` already contains such files. Several batches of one set of images should take their stems from
                one call of `result_stems`, so that equal names do not collide.
            extra: more entries for each image's line.

        Returns:
            The pictures and arrays that were written.

        Raises:
            InputError: the wrong number of stems, or duplicate ones.
        """
        assert self.names is not None
        out = Path(out)
        names = self.names
        if stems is None:
            plain = result_stems(names)
            stems = _free(out, plain)
            # A generated name such as `image_000` gets the number too, to tell the record's lines apart.
            names = [stem if name == base else name for name, base, stem in zip(names, plain, stems, strict=True)]
        if len(stems) != len(self) or len(set(stems)) != len(stems):
            raise InputError(f"stems={list(stems)} for {len(self)} images; give one for each, no two the same")
        cpu = self.on_cpu()
        written = []
        out.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(out / RECORD)
        with writing(out / RECORD), (out / RECORD).open("a", **TEXT) as record:
            for index, stem in enumerate(stems):
                written += cpu._write_files(out / stem, index)
                line = cpu.record(index) | {"image": names[index], "stem": stem} | (extra[index] if extra else {})
                record.write(json.dumps(line, ensure_ascii=False) + "\n")
                record.flush()
        return written

    def _write_files(self, place: Path, index: int) -> list[Path]:
        """Write the files of one image; `place` is their path without suffix."""
        place.parent.mkdir(parents=True, exist_ok=True)
        files = [(".png", self.plot, ".npz", self.arrays)]
        if self.by_area is not None:
            files.append((".areas.png", self.plot_areas, ".areas.npz", self.area_arrays))
        for picture_end, plot, arrays_end, arrays in files:
            with atomic_write(place.with_name(place.name + arrays_end), flushed=False) as file:
                np.savez_compressed(file, allow_pickle=False, **arrays(index))
            with atomic_write(place.with_name(place.name + picture_end), flushed=False) as file:
                plot(index).savefig(file, format="png", pil_kwargs={"compress_level": 3})
        return [place.with_name(place.name + end) for end in (".png", ".npz")]

    def arrays(self, index: int = 0) -> dict[str, np.ndarray]:
        """`image` uint8 `[H, W, C]`, `map` float32 `[H, W]`, and `mask` float32 `[H, W]` for methods with masks."""
        arrays = {"image": pixels_of(self.images[index]), "map": plane_of(self.maps[index])}
        return arrays if self.mask is None else arrays | {"mask": plane_of(self.mask[index])}

    def area_arrays(self, index: int = 0) -> dict[str, np.ndarray]:
        """The sweep over areas.

        Returns:
            `areas` float32 `[A]`, `masks` uint8 `[A, H, W]` (255 = keep), and `kept` float32 `[A]`, the probability of
            the target class under each mask.

        Raises:
            InputError: the method has no masks of a given area.
        """
        sweep = self._area_masks().sweep
        masks = sweep.masks[index].detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
        kept = sweep.kept[index].detach().float().cpu().numpy()
        return {"areas": np.array(sweep.areas, np.float32), "masks": masks, "kept": kept}

    def plot(self, index: int = 0) -> Figure:
        """Image, map with colour bar, and overlay side by side; the title has the class and its probabilities.

        The overlay shows kept pixels unchanged, removed ones dark and grey, and the contour at which the mask is one
        half. Without a mask it uses the map, scaled to [0, 1].
        """
        arrays = self.arrays(index)
        mask = arrays.get("mask")
        probabilities = f"whole {float(self.probability[index]):.3f}"
        for name, values in (("kept", self.probability_kept), ("removed", self.probability_removed)):
            probabilities += "" if values is None else f", {name} {float(values[index]):.3f}"
        caption = f"{self.method}, {self.steps} steps" if self.steps else self.method
        caption += f", selected by {self.selected_by}" if self.selected_by else ""
        caption += "" if mask is None else f", mask mean {float(mask.mean()):.2f}"
        return panels(arrays["image"], arrays["map"], mask, f"{self.labels[index]}: {probabilities}", caption)

    def plot_areas(self, index: int = 0) -> Figure:
        """Overlays of masks of increasing area, followed by the smallest area at which each pixel is kept.

        Raises:
            InputError: the method has no masks of a given area.
        """
        sweep = self._area_masks().sweep
        kept = sweep.kept[index].tolist()
        titles = [f"{area:g}: kept {probability:.3f}" for area, probability in zip(sweep.areas, kept, strict=True)]
        masks = sweep.masks[index, :, None].unbind()
        return overlay_row(self.images[index], masks, titles, (sweep.entry[index], "smallest area"))

    def _area_masks(self) -> AreaMasks:
        if self.by_area is None:
            raise InputError(f"method={self.method} has no masks of a given area; use explainer.name=inr")
        return self.by_area

    def on_cpu(self) -> Explanation:
        """Move all tensors to the CPU: one transfer per tensor instead of one per image and number."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        tensors: dict[str, Any] = {name: value.detach().cpu() for name, value in values if isinstance(value, Tensor)}
        return replace(self, **tensors)


def _free(out: Path, plain: Sequence[str]) -> list[str]:
    """Distinct stems, numbered from 2 on where `out` already contains results of that name."""
    taken, stems = set(plain), []

    def is_taken(name: str) -> bool:
        return name in taken or any((out / f"{name}{end}").exists() for end in (".png", ".npz"))

    for stem in plain:
        taken.remove(stem)  # its own name, which the others of this call must not get
        stems.append(free_name(stem, is_taken))
        taken.add(stems[-1])
    return stems


def _probability(by_area: AreaMasks, mask: Tensor) -> Tensor:
    return by_area.kept(mask)[:, 0]


def _number(values: Tensor | None, index: int) -> float | None:
    return None if values is None else float(values[index])
