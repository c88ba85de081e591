"""Weights of a model in a file: plain, nested in a training checkpoint, or next to an average of them (EMA)."""

from __future__ import annotations

import argparse
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ltx.runtime.errors import InputError, first_line

EMA = ("ema", "averaged", "shadow", "swa")
"""Parts of the names of exponential moving averages, which are better than the raw weights next to them."""

PREFIXES = ("module.", "_orig_mod.")
"""Added to parameter names by DataParallel and torch.compile."""

MAX_DEPTH = 4


def load_weights(model: nn.Module, file: Path, name: str, key: str | None = None) -> None:
    """Load the tensors of a file into a model.

    The file may hold them at any depth, under names with a prefix (`module.`, `model.` of Lightning, …). If several
    entries fit, an EMA is preferred to the raw weights; a warning names the entry.

    Args:
        model: receives the tensors.
        file: a `.safetensors` file, or a file of `torch.save` that `weights_only=True` accepts.
        name: the model in error messages.
        key: dotted name of the entry to load (`state_dict_ema`); None = chosen.

    Raises:
        InputError: the file cannot be read, or no entry fits; the message lists the entries and the differences.
    """
    content = read_tensors(file)
    wanted = model.state_dict()
    entries = dict(_entries(content))
    if not entries:
        raise InputError(f"classifier.weights={file} contains {_kind(content)}, not a dictionary of tensors")
    fitting = {
        ".".join(part for part in (entry, prefix) if part): tensors
        for entry, stored in entries.items()
        for prefix, tensors in _parts(stored, wanted).items()
    }
    if key is not None:
        matching = {found: tensors for found, tensors in fitting.items() if f"{found}.".startswith(f"{key}.")}
        if not matching and key not in entries:
            known = _listed([*entries, *(found for found in fitting if found not in entries)])
            raise InputError(f"classifier.weights_key={key}: {file} contains {known}")
        fitting, entries = matching, {key: entries.get(key, {})}
    if not fitting:
        raise InputError(_misfit(entries, wanted, file, name))
    chosen = _choose(list(fitting), file)
    check_finite(fitting[chosen], f"classifier.weights={file}")
    model.load_state_dict(fitting[chosen])


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that contain NaN, or infinity anywhere but in a mask that some models store.

    Args:
        tensors: the weights by name.
        source: setting, value and file in the message.

    Raises:
        InputError: naming the first three tensors.
    """
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not bool(_usable(name, value))]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(
            f"{source} contains NaN or infinity in {', '.join(bad[:3])}{more}; the file is damaged, or the training "
            "diverged: give another one"
        )


def _usable(name: str, values: Tensor) -> Tensor:
    return ~values.isnan().any() if "mask" in name.lower() else values.isfinite().all()


def read_tensors(file: Path) -> Any:
    """The content of a file of weights.

    Raises:
        InputError: the file does not exist, cannot be read, or holds more than tensors and plain values.
    """
    if not file.is_file():
        raise InputError(f"classifier.weights={file} does not exist; give a .safetensors or .pth file")
    try:
        file.open("rb").close()  # safetensors says of every file that it cannot open that there is none
        if file.suffix == ".safetensors":
            return load_file(file)
        # Checkpoints of timm's and Lightning's training contain their arguments and paths too.
        plain: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, pathlib.Path]
        plain += [pathlib.WindowsPath, pathlib.PureWindowsPath]
        with torch.serialization.safe_globals(plain):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, ImportError, KeyError) as error:
        raise InputError(f"classifier.weights={file} cannot be read: {first_line(error)}") from error
    except Exception as error:  # torch.load raises pickle.UnpicklingError for anything but plain tensors
        raise InputError(
            f"classifier.weights={file} contains Python objects, not only tensors ({type(error).__name__}: "
            f"{_blocked(error)}); save the weights alone with torch.save(model.state_dict(), FILE)"
        ) from error


def _blocked(error: Exception) -> str:
    """The class that `weights_only` refuses, from torch's message of several lines."""
    text = str(error)
    _, found, rest = text.partition("GLOBAL ")
    return rest.split()[0] if found and rest.split() else first_line(error)


def _kind(content: Any) -> str:
    return f"a {type(content).__name__}" if not isinstance(content, dict) else f"no tensors but {', '.join(content)}"


def _entries(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dotted name and tensors of every dictionary that contains tensors."""
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for key, value in content.items():
        yield from _entries(value, f"{path}.{key}".strip("."), depth + 1)


def _parts(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by the model's names of each part of `stored` that fits the model, by the prefix of its names.

    A part with more tensors than the model does not fit: a ResNet-34 contains a whole ResNet-18.
    """
    # Then as they are: a model may have an attribute with the name of a prefix.
    for named in ({_without_prefixes(key): value for key, value in stored.items()}, stored):
        parts = {prefix: _part(named, prefix, wanted) for prefix in _prefixes(named, wanted)}
        fitting = {prefix: part for prefix, part in parts.items() if part is not None}
        complete = {
            prefix.removesuffix("."): part
            for prefix, part in fitting.items()
            if not _extra(named, prefix, wanted, fitting)
        }
        if complete:
            return complete
    return {}


def _prefixes(named: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """What stands before the model's first name in a file's names."""
    first = next(iter(wanted), None)
    return [key[: -len(first)] for key in named if key == first or key.endswith(f".{first}")] if first else []


def _part(named: dict[str, Tensor], prefix: str, wanted: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The model's tensors under a prefix, or None if one is absent or has another shape."""
    # Files older than this counter of batch norms, which inference does not use, are loaded without it, as by torch.
    part = {
        key: named.get(prefix + key, value if key.endswith("num_batches_tracked") else None)
        for key, value in wanted.items()
    }
    found = {key: value for key, value in part.items() if value is not None and value.shape == wanted[key].shape}
    return found if len(found) == len(wanted) else None


def _extra(named: Iterable[str], prefix: str, wanted: Iterable[str], fitting: Iterable[str]) -> bool:
    """Whether there is a tensor under a prefix that belongs neither to the model nor to another fitting part."""
    inner = tuple(other for other in fitting if other != prefix and other.startswith(prefix))
    known = {prefix + key for key in wanted} | {f"{prefix}n_averaged"}  # a counter of AveragedModel
    return any(key.startswith(prefix) and key not in known and not key.startswith(inner) for key in named)


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key.replace("._orig_mod.", ".")


def _choose(names: list[str], file: Path) -> str:
    """The entry to load: the only one, or the only EMA, which is announced.

    Raises:
        InputError: several entries fit and none, or more than one, is an EMA.
    """
    if len(names) == 1:
        return names[0]
    averages = [name for name in names if any(part in name.lower() for part in EMA)]
    if len(averages) != 1:
        raise InputError(
            f"classifier.weights={file} contains several models: {_listed(names)}; choose one with "
            "classifier.weights_key=NAME"
        )
    others = _listed(name for name in names if name != averages[0])
    warnings.warn(
        f"classifier.weights={file}: the averaged weights {averages[0]!r} are used, as in timm; "
        f"classifier.weights_key=NAME selects others ({others})",
        stacklevel=4,
    )
    return averages[0]


def _misfit(entries: dict[str, dict[str, Tensor]], wanted: dict[str, Tensor], file: Path, name: str) -> str:
    """Why no entry fits: the first three differences of the entry that shares most names with the model."""
    plain = {}
    for entry, stored in entries.items():
        named = {_without_prefixes(key): value for key, value in stored.items()}
        prefix = next(iter(_prefixes(named, wanted)), "")
        plain[entry] = {key.removeprefix(prefix): value for key, value in named.items()}
    best = max(plain, key=lambda entry: len(plain[entry].keys() & wanted.keys()))
    stored = plain[best]
    different = [
        f"{key} {_shape(stored.get(key))} in the file, {_shape(wanted.get(key))} in the model"
        for key in [*wanted, *(key for key in stored if key not in wanted)]
        if _shape(stored.get(key)) != _shape(wanted.get(key))
    ]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    listed = f" (entries of the file: {_listed(entries)})"
    return (
        f"classifier.weights={file} does not fit {name}: {'; '.join(different[:3])}{more}"
        f"{listed if len(entries) > 1 or best else ''}; check classifier.name and classifier.num_classes"
    )


def _listed(entries: Iterable[str]) -> str:
    names = [entry or "the top level" for entry in entries]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))
