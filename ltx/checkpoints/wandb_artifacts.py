"""Checkpoints from wandb: downloaded once, then read from a cache."""

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
    """The folder of a checkpoint `wandb:ENTITY/PROJECT/NAME:ALIAS`, downloaded unless it is cached.

    The cache is `~/.cache/ltx`, or `$LTX_CACHE`. A cached version (`:v3`) needs no network. An alias (`:latest`) is
    looked up each time; if that fails, the version that it last referred to is used, with a warning that says why.
    Processes that fetch one version at the same time each download it, and the first to finish places it in the cache.

    Raises:
        InputError: no such name, no network and no cached version, or wandb is not logged in.
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
        import wandb  # takes a second, which local checkpoints should not wait

        artifact = wandb.Api().artifact(place)
        folder = cache / str(artifact.version)
        if not folder.is_dir():
            _download(artifact, folder)
    except Exception as error:  # wandb, its login and the network each raise their own
        reason = " ".join(str(error).split())[:200]
        if pointer.is_file() and (cache / pointer.read_text("utf-8")).is_dir():
            version = pointer.read_text("utf-8")
            warnings.warn(f"checkpoint={name} cannot be looked up ({reason}); using {version}", stacklevel=2)
            return cache / version
        raise InputError(
            f"checkpoint={name} cannot be fetched ({reason}); check the name, or run wandb login"
        ) from error
    write_atomically(pointer, str(artifact.version).encode())
    return folder


def _download(artifact: Any, folder: Path) -> None:
    """Download into a temporary folder next to `folder` and rename it: `folder` is complete or does not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        part = Path(temporary) / "checkpoint"
        artifact.download(root=str(part))
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same files
                raise
