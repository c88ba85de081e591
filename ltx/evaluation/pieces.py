"""Finished pieces of an evaluation on disk, so that a run can be resumed and ranks can share the work."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ltx.runtime.array_files import read_arrays
from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError, first_line
from ltx.runtime.json_text import parse_json

ABOUT = "about"


@dataclass
class Piece:
    """The result of one method on one chunk.

    Attributes:
        names, targets, probabilities: for each readable image its name, target class and `p_y` of the full image.
        skipped: files that were skipped, with the reason.
        rows: the rows of each metric, float32 `[B, C]`.
        maps: maps of the first images for the gallery, float16 `[G, H, W]`.
        constant: whether each map is constant.
    """

    names: list[str]
    targets: list[int]
    probabilities: list[float]
    skipped: list[tuple[str, str]]
    rows: dict[str, np.ndarray]
    maps: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 1), np.float16))
    constant: list[bool] = field(default_factory=list)


class Store:
    """A folder of pieces, each named by a hash of everything that determines it.

    Results of other settings, images or code have other names and are therefore never mixed in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, label: str, chunk: int, determined_by: Any) -> Path:
        """The path of the piece of a method and chunk, whether or not the file exists."""
        text = json.dumps([label, chunk, determined_by], sort_keys=True, default=str)
        word = re.sub(r"[^\w.+-]+", "_", label)[-60:]
        return self.folder / f"{chunk:05d}-{word}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npz"

    def save(self, path: Path, piece: Piece) -> None:
        """Write a piece atomically, so that a killed process does not leave an incomplete file."""
        about = {
            "names": piece.names,
            "targets": piece.targets,
            "probabilities": piece.probabilities,
            "skipped": piece.skipped,
            "constant": piece.constant,
        }
        arrays = {f"rows/{key}": rows for key, rows in piece.rows.items()}
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez(buffer, **{ABOUT: text, "maps": piece.maps}, **arrays)  # type: ignore[arg-type]  # not flags of savez
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())

    def load(self, path: Path) -> Piece:
        """Read a piece.

        Raises:
            InputError: the file is damaged.
        """
        try:
            stored = read_arrays(path)
            about = parse_json(stored[ABOUT].tobytes())
            return Piece(
                names=about["names"],
                targets=about["targets"],
                probabilities=about["probabilities"],
                skipped=[(name, reason) for name, reason in about["skipped"]],
                rows={key.removeprefix("rows/"): rows for key, rows in stored.items() if key.startswith("rows/")},
                maps=stored["maps"],
                constant=about["constant"],
            )
        except (ValueError, KeyError, TypeError) as error:  # InputError is a ValueError
            raise InputError(f"{path} is damaged ({first_line(error)}); remove it, and it is computed again") from error
