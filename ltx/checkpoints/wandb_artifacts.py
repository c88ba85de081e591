"""Checkpoints by their name on wandb: fetched once, then taken from the cache."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError

SCHEME = "wandb:"


def fetch(name: str) -> Path:
    """The folder of a checkpoint `wandb:ENTITY/PROJECT/NAME:ALIAS`, downloaded where it is not in the cache.

    The cache is `~/.cache/ltx`, or `LTX_CACHE`. A version (`:v3`) that is there is taken without a network; an alias
    (`:latest`) is asked for, and stands for the version that was fetched last under it, with a warning that says why,
    where wandb does not give another. Processes that fetch one version at once each download it, and the first that is
    done names it.

    Raises:
        InputError: no such name, no network and nothing in the cache, or wandb is not logged in.
    """
    place = name.removeprefix(SCHEME)
    if place.count("/") != 2 or not all(place.split("/")):
        raise InputError(f"checkpoint={name}; write wandb:ENTITY/PROJECT/NAME:ALIAS")
    place = place if ":" in place else f"{place}:latest"
    base, alias = place.rsplit(":", 1)
    cache = Path(os.environ.get("LTX_CACHE", Path.home() / ".cache" / "ltx")) / base
    pointer = cache / f"{alias}.version"
    if alias.startswith("v") and alias[1:].isdigit() and (cache / alias).is_dir():
        return cache / alias
    try:
        import wandb  # here, for it takes a second that a local checkpoint need not wait

        artifact = wandb.Api().artifact(place)
        folder = cache / str(artifact.version)
        if not folder.is_dir():
            _download(artifact, folder)
    except Exception as error:  # wandb, its login and the network each raise their own
        reason = " ".join(str(error).split())[:200]
        if pointer.is_file() and (cache / pointer.read_text()).is_dir():
            version = pointer.read_text()
            warnings.warn(f"checkpoint={name} cannot be asked for ({reason}); {version} is used", stacklevel=2)
            return cache / version
        raise InputError(
            f"checkpoint={name} cannot be fetched ({reason}); check the name, or run wandb login"
        ) from error
    write_atomically(pointer, str(artifact.version).encode())
    return folder


def _download(artifact: Any, folder: Path) -> None:
    """Download into a folder of our own beside, which takes the name `folder` as a whole or leaves nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as own:
        part = Path(own) / "checkpoint"
        artifact.download(root=str(part))
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same files
                raise
