"""Listings of image files: `.csv` and `.tsv` tables, and `.txt` files with one path per line.

Paths are relative to the folder of the listing. The fields of a table may be separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from ltx.data.formats import is_image_name
from ltx.runtime.errors import InputError

LISTINGS = (".csv", ".tsv", ".txt")
FILE_COLUMNS = ("file", "image", "path")
SEPARATORS = (",", "\t", ";")
Rows = list[list[str]]


def listed_files(listing: Path) -> list[Path]:
    """The files that a listing names, in its order.

    A table's files are in the column `file`, `image` or `path`, else in the first column whose cells have an image's
    suffix, else in the first column. A header is optional.

    Raises:
        InputError: the listing is not valid text.
    """
    if listing.suffix.lower() == ".txt":
        lines = [line.strip() for line in _text(listing).splitlines()]
        if not any(separator in line for line in lines for separator in "\t;"):
            return [listing.parent / _without_label(line, listing.parent) for line in lines if line]
    header, rows = _read_table(listing)
    column = _file_column(header, rows)
    return [listing.parent / row[column].strip() for row in rows if len(row) > column and row[column].strip()]


def read_labels(listing: str | Path) -> dict[Path, int]:
    """The column `class_index` of a table, by the paths that `listed_files` returns for it.

    Raises:
        InputError: a missing file or column, or an entry that is not a whole number.
    """
    listing = Path(listing)
    if not listing.is_file():
        raise InputError(f"labels={listing} does not exist; give a .csv with the columns file and class_index")
    header, rows = _read_table(listing)
    if "class_index" not in header:
        columns = ", ".join(header) or "not named"
        raise InputError(f"labels={listing} has no column class_index; its columns are {columns}")
    name, index = _file_column(header, rows), header.index("class_index")
    labels = {}
    for number, row in enumerate(rows, start=2):
        try:
            labels[listing.parent / row[name].strip()] = int(row[index])
        except (ValueError, IndexError) as error:
            raise InputError(f"labels={listing}, line {number}: class_index is not a whole number") from error
    return labels


def has_labels(listing: Path) -> bool:
    """Whether a table has a column `class_index`."""
    return "class_index" in _read_table(listing)[0]


def labels_of(files: Sequence[Path], listings: Sequence[Path]) -> list[int | None]:
    """The class index of each file, however its path is spelled; None if no listing has it.

    Of the listings that have a file, the one in the deepest folder that contains the file wins; if none is in such a
    folder, the last one wins.

    Raises:
        InputError: see `read_labels`, or listings that contain none of the files.
    """
    tables = {
        Path(os.path.abspath(listing)).parent: {
            os.path.realpath(file): index for file, index in read_labels(listing).items()
        }
        for listing in listings
    }
    anywhere = {place: index for table in tables.values() for place, index in table.items()}
    labels: list[int | None] = []
    for file in files:
        real = os.path.realpath(file)
        folders = (*Path(os.path.abspath(file)).parents, *Path(real).parents)
        near = (tables[folder][real] for folder in folders if real in tables.get(folder, ()))
        labels.append(next(near, anywhere.get(real)))
    if not any(label is not None for label in labels):
        names = ", ".join(map(str, listings))
        raise InputError(
            f"labels={names} contains none of the {len(files)} images; paths are relative to the listing's folder"
        )
    return labels


def _text(listing: Path) -> str:
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"images={listing} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise InputError(f"images={listing} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise InputError(f"images={listing} is not text: it contains null bytes")
    return text


def _without_label(line: str, folder: Path) -> str:
    """A line of the form `path label`, as ImageNet's lists have them, without its label."""
    path, space, label = line.rpartition(" ")
    labelled = space and label.lstrip("-").isdigit() and is_image_name(path) and not (folder / line).exists()
    return path.rstrip() if labelled else line


def _read_table(listing: Path) -> tuple[list[str], Rows]:
    """Header in lower case, empty if the first row already names a file, and the other rows."""
    text = _text(listing)
    tables = [_parse(text, separator, listing) for separator in SEPARATORS]
    rows = max(tables, key=_plausibility)  # the first of equals: the comma
    first = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not first or (any(map(is_image_name, first)) and not set(first) & set(FILE_COLUMNS)):
        return [], rows
    return first, rows[1:]


def _parse(text: str, separator: str, listing: Path) -> Rows:
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
    except csv.Error as error:
        raise InputError(f"images={listing} is not a valid table: {error}") from error


def _plausibility(rows: Rows) -> tuple[int, bool]:
    """Rows with a cell that names an image; then whether all rows have the same number of columns, two or more."""
    pictured = sum(any(is_image_name(cell.strip()) for cell in row) for row in rows)
    return pictured, len({len(row) for row in rows}) == 1 and len(rows[0]) > 1


def _file_column(header: list[str], rows: Rows) -> int:
    named = [header.index(name) for name in FILE_COLUMNS if name in header]
    cells = rows[0] if rows else []
    pictured = [place for place, cell in enumerate(cells) if is_image_name(cell.strip())]
    return [*named, *pictured, 0][0]
