"""The browser's runtime: the npm package onnxruntime-web, at one version whose content is known."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ltx.runtime.errors import InputError

PACKAGE, VERSION = "onnxruntime-web", "1.27.0"
INTEGRITY = "ogDLsqIozHZwifPuN37OproAo0byX6t43/bP8GzeZWBWD6MOGExswFAx3up4NS/vvWBOg2u2PXomDt3rMmdQSg=="
"""SHA-512 of the package as npm publishes it, in base64."""


def package_file(given: str | None = None) -> Path:
    """The package as a `.tgz` file: the given one, one that was downloaded before, or a new download with npm.

    Raises:
        InputError: there is no npm or it fails, or the file is not this version of the package.
    """
    if given is not None:
        file = Path(given)
        if not file.is_file():
            raise InputError(f"runtime={given} does not exist; give {PACKAGE}-{VERSION}.tgz")
        if _digest(file) != INTEGRITY:
            raise InputError(f"runtime={given} is not {PACKAGE} {VERSION} as npm publishes it")
        return file
    cached = _cache() / f"{PACKAGE}-{VERSION}.tgz"
    if not cached.is_file() or _digest(cached) != INTEGRITY:
        _download(cached)
    return cached


def _download(destination: Path) -> None:
    npm = shutil.which("npm")
    hint = f"give the file with runtime={PACKAGE}-{VERSION}.tgz"
    if npm is None:
        raise InputError(f"npm is not installed, which downloads {PACKAGE}; install Node.js, or {hint}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        files = list(Path(folder).glob("*.tgz"))
        if done.returncode or not files:
            reason = (done.stderr.strip().splitlines() or ["no file"])[-1]
            raise InputError(f"npm pack {PACKAGE}@{VERSION} failed: {reason[:200]}; or {hint}")
        if _digest(files[0]) != INTEGRITY:
            raise InputError(f"npm returned another {PACKAGE} {VERSION} than the one published; {hint}")
        os.replace(files[0], destination)


def read_members(package: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The contents of files in the package's folder `dist`, by name."""
    contents = {}
    with tarfile.open(package) as archive:
        for name in names:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            contents[name] = member.read()
    return contents


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()
