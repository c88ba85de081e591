"""Which image files are meant: a file, a folder, a glob, a listing, and the classes that a listing gives."""

from __future__ import annotations

import csv
import glob
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from ltx.runtime.errors import InputError

Spec = str | Path | Sequence[str | Path]

SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"])
FILE_COLUMNS = ("file", "image", "path")

# Photographs of scenes and things inside the scikit-image package, without its textures, drawings, microscopy, a
# blurred clock, and the right view of the stereo pair (all but a copy of the left one, which could be held out).
SCIKIT_IMAGE = [
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
]


def find_images(spec: Spec, out: Path | None = None) -> list[Path]:
    """The image files that `spec` means, each once.

    Args:
        spec: a file; a folder (files of every depth, sorted, links followed, hidden ones left out); a glob (`**` goes
            any depth); a `.csv` listing, whose column `file`, `image` or `path` (else the first) holds paths relative
            to the CSV; the word `scikit-image` for the photographs in that package; or a list of any of these.
        out: where a former run of the same command may have left pictures, which are not meant.

    Returns:
        Paths in the order of `spec`. Files that a listing names are not checked here: reading them may still fail.

    Raises:
        InputError: nothing is there, or no image in it; or all are in `out`, where results might replace them.
    """
    listed = list(spec) if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]
    # YAML reads the name of a folder such as 2012 as a number.
    parts = [str(part) if isinstance(part, int) and not isinstance(part, bool) else part for part in listed]
    if not all(isinstance(part, (str, Path)) for part in parts):
        raise InputError(f"images={spec}; give a file, folder, glob, .csv listing or 'scikit-image', or a list of them")
    if not parts:
        raise InputError("images is an empty list; give a file, folder, glob, .csv listing or 'scikit-image'")
    found: dict[Path, None] = {}
    for part in parts:
        # One missing file among several is skipped when it is read, like any other that cannot be.
        named = len(parts) > 1 and Path(part).suffix.lower() in SUFFIXES and not _has_magic(str(part))
        found.update(dict.fromkeys([Path(part)] if named and not Path(part).is_dir() else _find(str(part))))
    if out is None:
        return list(found)
    place = out.resolve()
    outside = [file for file in found if place not in file.resolve().parents]
    if not outside:
        raise InputError(f"out={out} is where the images are; choose another folder for the results")
    return outside


def image_root(spec: Spec) -> Path:
    """The folder below which the images of `spec` keep their sub-folders: the deepest that holds them all."""
    roots = []
    for part in map(str, [spec] if isinstance(spec, (str, Path, int)) else spec):
        path = Path(part)
        if part == "scikit-image":
            path = _scikit_image_folder()
        elif not path.exists() and _has_magic(part):
            fixed = next(i for i, name in enumerate(path.parts) if _has_magic(name))
            path = Path(*path.parts[:fixed])
        elif not path.is_dir():
            path = path.parent
        roots.append(os.path.abspath(path))
    return Path(os.path.commonpath(roots))


def _find(spec: str) -> list[Path]:
    path = Path(spec)
    if spec == "scikit-image":
        folder = _scikit_image_folder()
        files = [folder / name for name in SCIKIT_IMAGE if (folder / name).is_file()]
    elif path.is_dir():
        files = _walk(path)
    elif path.is_file():
        files = _listed(path) if path.suffix.lower() == ".csv" else [path]
    elif _has_magic(spec):
        hits = sorted(map(Path, glob.glob(spec, recursive=True)))
        files = [file for hit in hits if hit.is_file() for file in [hit] if hit.suffix.lower() in SUFFIXES]
        files = files or [file for hit in hits if hit.is_dir() for file in _walk(hit)]
    else:
        raise InputError(f"images={spec} does not exist; give a file, folder, glob, .csv listing or 'scikit-image'")
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise InputError(f"images={spec} holds no image; files are looked for by their suffix ({kinds})")
    return files


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(where, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(files)


def _scikit_image_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("images=scikit-image needs the package scikit-image: pip install it")
    return Path(spec.origin).parent / "data"


def _has_magic(text: str) -> bool:
    return glob.has_magic(text)


def _listed(listing: Path) -> list[Path]:
    header, rows = _read_csv(listing)
    column = _file_column(header, rows)
    return [listing.parent / row[column].strip() for row in rows if len(row) > column and row[column].strip()]


def read_labels(listing: str | Path) -> dict[Path, int]:
    """The column `class_index` of a `.csv` listing, by the paths that `find_images` gives for it.

    Raises:
        InputError: no such file or column, or an entry that is no whole number.
    """
    listing = Path(listing)
    if not listing.is_file():
        raise InputError(f"labels={listing} does not exist; give a .csv with the columns file and class_index")
    header, rows = _read_csv(listing)
    if "class_index" not in header:
        raise InputError(f"labels={listing} has no column class_index; its columns are {', '.join(header)}")
    name, index = _file_column(header, rows), header.index("class_index")
    labels = {}
    for number, row in enumerate(rows, start=2):
        try:
            labels[listing.parent / row[name].strip()] = int(row[index])
        except (ValueError, IndexError) as error:
            raise InputError(f"labels={listing}, line {number}: class_index is no whole number") from error
    return labels


def _read_csv(listing: Path) -> tuple[list[str], list[list[str]]]:
    """Header (lower case; empty where the first row already is a file) and the other rows."""
    try:
        with listing.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"images={listing} is no CSV text: {error}") from error
    first = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not first or (os.path.splitext(first[0])[1] in SUFFIXES and not set(first) & set(FILE_COLUMNS)):
        return [], rows
    return first, rows[1:]


def _file_column(header: list[str], rows: list[list[str]]) -> int:
    """The column of a usual name, else the first whose cells look like pictures, else the first."""
    named = [header.index(name) for name in FILE_COLUMNS if name in header]
    cells = rows[0] if rows else []
    pictured = [place for place, cell in enumerate(cells) if os.path.splitext(cell.strip().lower())[1] in SUFFIXES]
    return [*named, *pictured, 0][0]
