"""The classes of a classifier: their names, and which of them a user asks about."""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo
from torch import Tensor

from ltx.runtime.errors import InputError, suggest

Target = int | str
Targets = Tensor | np.ndarray | Target | Sequence[Target] | None


def class_names(names: Iterable[str] | str | Path | None, count: int) -> list[str]:
    """One name a class: as given, as in a text file with one a line, ImageNet's for 1,000 classes, else the indices.

    Raises:
        InputError: no such file or text, or another count.
    """
    if names is None:
        return (
            list(ImageNetInfo("imagenet-1k").label_descriptions()) if count == 1000 else [str(i) for i in range(count)]
        )
    if isinstance(names, (str, Path)):
        if not Path(names).is_file():
            raise InputError(f"classifier.class_names={names} does not exist; give a text file with one name a line")
        try:
            names = Path(names).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"classifier.class_names={names} is no UTF-8 text; save it as such") from error
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise InputError(f"classifier.class_names={names}; give a text file with one name a line, or a list")
    names = list(names)
    for name in names:
        if not isinstance(name, str):  # YAML reads no, null and 010 otherwise
            raise InputError(f"classifier.class_names holds {name}; give text, in quotes")
    if len(names) != count:
        raise InputError(f"classifier.class_names has {len(names)} names for {count} classes")
    return names


def class_index(target: Target, names: Sequence[str], model: str) -> int:
    """See `Classifier.class_index`.

    Args:
        names: of all classes, by index.
        model: whose classes they are, for errors.
    """
    if not isinstance(target, str) or re.fullmatch(r"-?[0-9]+", target.strip()):
        try:
            index = int(target) if isinstance(target, str) else operator.index(target)
        except TypeError as error:
            raise InputError(f"target={target} is no class; give an index or a name") from error
        if isinstance(target, bool):
            raise InputError(f"target={target} is no class; give an index or a name")
        if not 0 <= index < len(names):
            raise InputError(f"target={target} is not a class of {model}; indices go from 0 to {len(names) - 1}")
        return index
    named, also = _by_name(names)
    wanted, known = target.strip().lower(), [*named, *also]
    found = sorted(named[wanted] or also[wanted])
    if not found:
        raise InputError(f"target={target!r} is not a class of {model}{suggest(wanted, known)}")
    if len(found) > 1:
        meant = ", ".join(f"{index} ({names[index]})" for index in found)
        raise InputError(f"target={target!r} is the name of several classes of {model}; give an index: {meant}")
    return found[0]


def _by_name(names: Sequence[str]) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Which classes have a name as their first or whole one, and which as a further synonym."""
    named: dict[str, set[int]] = defaultdict(set)
    also: dict[str, set[int]] = defaultdict(set)
    for index, name in enumerate(names):
        first, *others = name.split(",")
        for text in (first, name):
            named[text.strip().lower()].add(index)
        for text in others:
            also[text.strip().lower()].add(index)
    return named, also


def one_each(targets: Targets, count: int) -> list[Target] | None:
    """The classes asked about, one an image; None where all are the predicted ones.

    Args:
        targets: None or `"predicted"` = the highest logit; an index or a class name for all images; or one each.

    Raises:
        InputError: another count than that of the images.
    """
    if isinstance(targets, (Tensor, np.ndarray)):
        targets = targets.tolist()
    if targets is None or (isinstance(targets, str) and targets == "predicted"):
        return None
    listed = [targets] * count if isinstance(targets, str) or not isinstance(targets, Iterable) else list(targets)
    if len(listed) != count:
        raise InputError(f"{len(listed)} targets for {count} images; give one, or one for each image")
    return listed
