"""The image files that a setting means: a file, a folder, a glob, a listing, or several of these."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ltx.data.formats import is_image_name
from ltx.data.listings import LISTINGS, listed_files
from ltx.runtime.errors import InputError

Spec = str | Path | Sequence[str | Path]

EXPECTED = "a file, folder, glob, listing (.csv, .tsv, .txt) or 'scikit-image'"

# Photographs in the scikit-image package. Textures, drawings, microscopy, a blurred clock and the right image of the
# stereo pair (almost a copy of the left one, which could be held out) are excluded.
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


@dataclass
class Found:
    """The result of a search for image files.

    Attributes:
        files: each file once, in the order of the setting.
        left_out: visible files in folders and globs that are not images by their suffix.
        failed: entries of the setting that name no image, each with the reason.
        named: files that the setting names one by one.
        closed: folders inside the entries that cannot be listed, each with the reason.
    """

    files: list[Path]
    left_out: list[Path] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    named: set[Path] = field(default_factory=set)
    closed: list[tuple[str, str]] = field(default_factory=list)

    def summary(self) -> str:
        """One line on the files that were left out and the folders that cannot be listed; empty if there are none."""
        return "; ".join(filter(None, [left_out_summary(self.left_out), _closed_summary(self.closed)]))

    def complete(self) -> Found:
        """Itself.

        Raises:
            InputError: an entry names no image.
        """
        if self.failed:
            raise InputError(self.failed[0][1])
        return self


def left_out_summary(files: Sequence[Path]) -> str:
    """`left out 3 files that are not images by their suffix: a.txt, b.txt, …`; empty for no files."""
    if not files:
        return ""
    if len(files) <= 3:
        names = ", ".join(file.name for file in files)
    else:
        kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
        names = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(5))
        names += ", …" if len(kinds) > 5 else ""
    plural = "s that are not images by their suffix" if len(files) > 1 else " that is not an image by its suffix"
    return f"left out {len(files)} file{plural}: {names}"


def _closed_summary(folders: Sequence[tuple[str, str]]) -> str:
    """`1 folder cannot be listed: disk/lost+found (Permission denied)`; empty for no folders."""
    if not folders:
        return ""
    names = ", ".join(f"{folder} ({reason})" for folder, reason in folders[:3])
    plural = "s" if len(folders) > 1 else ""
    return f"{len(folders)} folder{plural} cannot be listed: {names}{', …' if len(folders) > 3 else ''}"


def find_images(spec: Spec, out: Path | None = None) -> list[Path]:
    """Find the image files of a setting, each once; every entry of a list must name at least one image.

    Args:
        spec: a file; a folder (files at any depth, sorted, links followed, hidden ones left out); a glob (`**` matches
            any depth); a listing (see `ltx.data.listings`); the word `scikit-image` for the photographs in that
            package; or a list of any of these. Files of folders and globs are recognised by their suffix.
        out: folder of the command's results, whose pictures are excluded.

    Returns:
        Paths in the order of `spec`. Files named by a listing or one by one are not checked: reading may still fail.

    Raises:
        InputError: an entry does not exist or contains no image, or all images are in `out`.
    """
    return search_images(spec, out).complete().files


def search_images(spec: Spec, out: Path | None = None) -> Found:
    """Find the image files of a setting, and also report what was not found or left out; see `find_images`.

    Raises:
        InputError: no entry names an image, or all images are in `out`.
    """
    entries = _entries(spec)
    files: dict[Path, None] = {}
    found = Found([])
    for entry in entries:
        path = Path(entry)
        # A missing file among several entries is skipped when it is read, like any other unreadable file.
        if len(entries) > 1 and not path.is_dir() and is_image_name(entry) and not glob.has_magic(entry):
            files[path] = None
            found.named.add(path)
            continue
        try:
            hits = _find(entry)
        except InputError as error:
            found.failed.append((entry, str(error)))
            continue
        files.update(dict.fromkeys(hits.files))
        found.left_out += hits.left_out
        found.closed += [place for place in hits.closed if place not in found.closed]
        if hits.files == [path]:
            found.named.add(path)
    if not files:
        raise InputError(found.failed[0][1])
    found.files = _outside(files, out)
    return found


def image_root(spec: Spec) -> Path:
    """The folder below which the images of `spec` keep their sub-folders: the deepest one that contains them all."""
    roots = []
    for entry in _entries(spec):
        path = Path(entry)
        if entry == "scikit-image":
            path = _scikit_image_folder()
        elif not path.exists() and glob.has_magic(entry):
            path = _literal_prefix(path)
        elif not path.is_dir():
            path = path.parent
        roots.append(os.path.abspath(path))
    return Path(os.path.commonpath(roots))


def _entries(spec: Spec) -> list[str]:
    entries = list(spec) if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]
    # YAML reads the name of a folder such as 2012 as a number.
    entries = [str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry for entry in entries]
    if not all(isinstance(entry, (str, Path)) for entry in entries):
        raise InputError(f"images={spec}; give {EXPECTED}, or a list of them")
    if not entries:
        raise InputError(f"images is an empty list; give {EXPECTED}")
    return [str(entry) for entry in entries]


def _outside(files: Iterable[Path], out: Path | None) -> list[Path]:
    """The files that are not below `out`."""
    if out is None:
        return list(files)
    place = out.resolve()
    outside = [file for file in files if place not in file.resolve().parents]
    if not outside:
        raise InputError(f"out={out} is where the images are; choose another folder for the results")
    return outside


def _find(entry: str) -> Found:
    """What one entry means."""
    path = Path(entry)
    if entry == "scikit-image":
        folder = _scikit_image_folder()
        found = Found([folder / name for name in SCIKIT_IMAGE if (folder / name).is_file()])
    elif path.is_dir():
        found = _walk(path)
    elif path.is_file() or path.is_fifo():
        found = Found(listed_files(path) if path.suffix.lower() in LISTINGS else [path])
    elif glob.has_magic(entry):
        found = _glob(path)
    else:
        raise InputError(f"images={entry} does not exist; give {EXPECTED}")
    if not found.files:
        reason = found.summary() or "files are recognised by their suffix, such as .jpg or .png"
        if glob.has_magic(entry) and not path.exists():
            reason += "; *, ? and [...] are patterns, and [[] matches a bracket"
        raise InputError(f"images={entry} contains no image; {reason}")
    return found


def _glob(pattern: Path) -> Found:
    """Files that match a pattern; if only folders match, the images below them."""
    # Folders that exist are meant literally, also one that is named `[a]`.
    literal = _literal_prefix(pattern)
    rest = pattern.parts[len(literal.parts) :] if literal != Path() else pattern.parts
    hits = sorted(map(Path, glob.glob(str(Path(glob.escape(str(literal)), *rest)), recursive=True)))
    files = [hit for hit in hits if hit.is_file()]
    found = _by_suffix(files)
    if not found.files:
        for folder in filter(Path.is_dir, hits):
            inside = _walk(folder)
            found.files += inside.files
            found.left_out += inside.left_out
            found.closed += inside.closed
    return found


def _literal_prefix(pattern: Path) -> Path:
    """The longest prefix of a pattern that is an existing folder."""
    prefix = Path()
    for part in pattern.parts:
        if not (prefix / part).is_dir():
            break
        prefix /= part
    return prefix


def _walk(folder: Path) -> Found:
    files: list[Path] = []
    closed: list[tuple[str, str]] = []
    seen: set[str] = set()

    def cannot_list(error: OSError) -> None:
        closed.append((str(error.filename), str(error.strerror)))

    for where, folders, names in os.walk(folder, onerror=cannot_list, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    files.sort()
    found = _by_suffix(files)
    found.closed = closed
    return found


def _by_suffix(files: Sequence[Path]) -> Found:
    images = [file for file in files if is_image_name(file.name)]
    return Found(images, [file for file in files if not is_image_name(file.name)])


def _scikit_image_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("images=scikit-image needs the package scikit-image; run pip install scikit-image")
    return Path(spec.origin).parent / "data"
