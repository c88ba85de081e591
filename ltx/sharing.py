"""Checkpoints by their name on wandb: fetched once, then taken from the cache."""

from __future__ import annotations

import os
from pathlib import Path

from ltx.errors import InputError

SCHEME = "wandb:"


def fetch(name: str) -> Path:
    """The folder of a checkpoint `wandb:ENTITY/PROJECT/NAME:ALIAS`, downloaded where it is not in the cache.

    The cache is `~/.cache/ltx`, or `LTX_CACHE`. A version (`:v3`) that is there is taken without a network; an alias
    (`:latest`) is asked for, and stands for the version that was fetched last under it where nobody answers.

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
    if alias.startswith("v") and alias[1:].isdigit() and _whole(cache / alias):
        return cache / alias
    try:
        import wandb  # here, for it takes a second that a local checkpoint need not wait

        artifact = wandb.Api().artifact(place)
        folder = cache / str(artifact.version)
        if not _whole(folder):
            artifact.download(root=str(folder))
            (folder / ".whole").touch()
    except Exception as error:  # wandb, its login and the network each raise their own
        if pointer.is_file() and _whole(cache / pointer.read_text()):
            return cache / pointer.read_text()
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"checkpoint={name} cannot be fetched ({reason}); check the name, or run wandb login"
        ) from error
    pointer.write_text(str(artifact.version))
    return folder


def _whole(folder: Path) -> bool:
    return (folder / ".whole").is_file()
