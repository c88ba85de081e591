"""Names of classes, and target classes by name or index."""

from __future__ import annotations

import operator
import re
import reprlib
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
    """Resolve the names of `count` classes.

    Args:
        names: a list, or a text file with one name per line; None = ImageNet's names for 1,000 classes, otherwise the
            indices.
        count: number of classes.

    Raises:
        InputError: the file does not exist or is not UTF-8 text, a name is not text, or their number is not `count`.
    """
    if names is None:
        return (
            list(ImageNetInfo("imagenet-1k").label_descriptions()) if count == 1000 else [str(i) for i in range(count)]
        )
    if isinstance(names, (str, Path)):
        if not Path(names).is_file():
            raise InputError(f"classifier.class_names={names} does not exist; give a text file with one name per line")
        try:
            names = Path(names).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"classifier.class_names={names} is not UTF-8 text; save it as UTF-8") from error
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise InputError(f"classifier.class_names={names}; give a text file with one name per line, or a list")
    names = list(names)
    for name in names:
        if not isinstance(name, str):  # YAML reads no, null and 010 as other types
            raise InputError(f"classifier.class_names contains {name}, which is not text; put it in quotes")
    if len(names) != count:
        raise InputError(f"classifier.class_names has {len(names)} names for {count} classes")
    return names


def class_index(target: Target, names: Sequence[str], model: str) -> int:
    """Index of a target class; see `Classifier.class_index`.

    Args:
        target: an index, an index as text, or a name.
        names: names of all classes, by index.
        model: name of the classifier, for error messages.

    Raises:
        InputError: the target is not a class, or several classes have this name.
    """
    if isinstance(target, (list, tuple, dict)):
        raise InputError(
            f"target={reprlib.repr(target)[:60]} is not a valid class; give an index or a name, one per image"
        )
    if not isinstance(target, str) or re.fullmatch(r"-?[0-9]+", target.strip()):
        try:
            index = int(target) if isinstance(target, str) else operator.index(target)
        except TypeError as error:
            raise InputError(f"target={target} is not a valid class; give an index or a name") from error
        if isinstance(target, bool):
            raise InputError(f"target={target} is not a valid class; give an index or a name")
        if not 0 <= index < len(names):
            raise InputError(f"target={target} is not a class of {model}; indices go from 0 to {len(names) - 1}")
        return index
    first_names, synonyms = _by_name(names)
    name = target.strip().lower()
    indices = sorted(first_names.get(name, set()) or synonyms.get(name, set()))
    if not indices:
        raise InputError(f"target={target!r} is not a class of {model}{suggest(name, [*first_names, *synonyms])}")
    if len(indices) > 1:
        candidates = ", ".join(f"{index} ({names[index]})" for index in indices)
        raise InputError(f"target={target!r} is the name of several classes of {model}; give an index: {candidates}")
    return indices[0]


def _by_name(names: Sequence[str]) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Indices by first name (or the complete entry), and indices by further synonym; names are separated by commas."""
    first_names: dict[str, set[int]] = defaultdict(set)
    synonyms: dict[str, set[int]] = defaultdict(set)
    for index, name in enumerate(names):
        first, *others = name.split(",")
        for text in (first, name):
            first_names[text.strip().lower()].add(index)
        for text in others:
            synonyms[text.strip().lower()].add(index)
    return first_names, synonyms


def one_each(targets: Targets, count: int, of: str = "images") -> list[Target] | None:
    """Target classes, one per image; None = the predicted classes.

    Args:
        targets: None or `"predicted"` = the highest logit; an index or a class name for all images; or one per image.
        count: number of images.
        of: what they are called in the error.

    Raises:
        InputError: the number of targets is not that of the images.
    """
    if isinstance(targets, (Tensor, np.ndarray)):
        targets = targets.tolist()
    if targets is None or (isinstance(targets, str) and targets == "predicted"):
        return None
    listed = [targets] * count if isinstance(targets, str) or not isinstance(targets, Iterable) else list(targets)
    if len(listed) != count:
        raise InputError(f"{len(listed)} targets for {count} {of}; give one, or one for each")
    return listed
