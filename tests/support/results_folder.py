"""Folders of results as `ltx finetune` writes them, without a classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NASTY = [
    "<script>window.injected=1</script>.jpg",
    "\"><img src=x onerror='window.injected=1'>.jpg",
    "</script><script>window.injected=1</script>.jpg",
    "a&amp;b'c\"d.jpg",
    "صورة قطة جميلة.jpg",
    "\u202egpj.exe.jpg",
    "ü" * 110 + ".jpg",
    "${alert(1)}{{7*7}}.jpg",
    "bytes \udcff.jpg",
]
"""Names of files that a page must show and never run: markup, quotes, right-to-left text, 224 bytes, not UTF-8."""


def write_results(
    folder: Path,
    names: Sequence[str],
    size: int = 16,
    labels: Sequence[str] = ("tabby", "lynx", "fox"),
    areas: Sequence[float] = (),
    seed: int = 0,
) -> Path:
    """Results of images with these names, smooth images and masks of random blobs; returns the folder.

    The class's probability of the i-th image is i / count, so that an order by it is known.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    lines = []
    for index, name in enumerate(names):
        stem = (
            name.rpartition(".")[0].replace("/", "-")
            if "<" in name or name.startswith('"')
            else name.rpartition(".")[0]
        )
        colour, (top, left), width = random.uniform(0.3, 1, 3), random.uniform(0.2, 0.8, 2), random.uniform(0.1, 0.3)
        distance = ((y - top) ** 2 + (x - left) ** 2) / width**2
        mask = np.exp(-distance).astype(np.float32)
        image = ((0.25 + 0.75 * mask[..., None]) * colour * 255).astype(np.uint8)
        file = folder / f"{stem}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, image=image, map=mask, mask=mask)
        if areas:
            masks = [(mask >= np.quantile(mask, 1 - area)) * np.uint8(255) for area in areas]
            kept = np.linspace(0.1, 0.9, len(areas), dtype=np.float32)
            arrays = {"areas": np.array(areas, np.float32), "masks": np.stack(masks), "kept": kept}
            np.savez(folder / f"{stem}.areas.npz", **arrays)
        line = {
            "image": f"photos/{name}",
            "target": 281 + index % len(labels),
            "label": labels[index % len(labels)],
            "probability": index / len(names),
            "probability_kept": float(random.uniform()),
            "probability_removed": float(random.uniform()),
            "mask_mean": float(mask.mean()),
            "method": "ltx",
            "steps": 25,
            "seconds": 0.1,
            "stem": stem,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    with (folder / "explanations.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as record:
        record.write("\n".join(lines) + "\n")
    return folder
