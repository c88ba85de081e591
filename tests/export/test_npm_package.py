from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from ltx.export import npm_package
from ltx.export.npm_package import _digest, package_file, read_members
from ltx.runtime.errors import InputError


def write_package(file: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package whose content is the expected one, and an empty cache."""
    file = write_package(tmp_path / "runtime.tgz", {"a.mjs": b"script"})
    monkeypatch.setattr(npm_package, "INTEGRITY", _digest(file))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file


def fake_npm(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(stat.S_IRWXU)


def test_only_the_published_content_is_used(package: Path, tmp_path: Path) -> None:
    assert read_members(package_file(str(package)), ["a.mjs"]) == {"a.mjs": b"script"}
    other = write_package(tmp_path / "other.tgz", {"a.mjs": b"changed"})
    with pytest.raises(InputError, match="is not onnxruntime-web"):
        package_file(str(other))
    with pytest.raises(InputError, match="does not exist"):
        package_file(str(tmp_path / "none.tgz"))


def test_npm_downloads_it_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", f'for last; do :; done; cp {package} "$last/x.tgz"; echo "$2" >> {tmp_path}/calls')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert package_file() == package_file()
    assert (tmp_path / "calls").read_text() == f"onnxruntime-web@{npm_package.VERSION}\n"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo 'no network' >&2; exit 1", "failed: no network; or give the file with runtime="),
        ('for last; do :; done; echo other > "$last/x.tgz"', "returned another onnxruntime-web"),
    ],
)
def test_a_failed_download_is_one_line(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    fake_npm(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(InputError, match=text):
        package_file()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is not installed"):
        package_file()
