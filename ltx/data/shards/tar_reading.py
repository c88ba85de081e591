"""Sequential reading of the samples in a tar file, local or remote."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.request import url2pathname

import webdataset

from ltx.data.reading import opened
from ltx.data.shards.grouping import Group, grouped
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import forget_members, watched_headers

MAX_MEMBER_BYTES = 1 << 28
"""Larger members are left out: the contents of several must fit into memory."""

HEADER_ERRORS = {
    "truncated header": "it is truncated, or not a tar file",
    "invalid header": "it is not a tar file",
    "empty file": "it is empty",
}


@dataclass(frozen=True)
class Sample:
    """An encoded image of a shard.

    Attributes:
        key: name within the shard, without suffix.
        name: shard and member, as results and errors name it: `…/000003.tar/n01440764/10026.jpg`.
        image: the encoded image; empty if the sample contains none.
        label: class index, or None.
    """

    key: str
    name: str
    image: bytes
    label: int | None


@dataclass
class Content:
    """The number of samples in a shard, and the members that are left out.

    Attributes:
        samples: number of samples.
        left_out: names of members that are left out although they may be images, each with the reason.
        damage: why the shard cannot be read to its end; empty if it can.
    """

    samples: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    damage: str = ""


def local_path(url: str) -> Path | None:
    """Path of a local shard; None for a remote one."""
    if url.startswith("pipe:"):
        return None
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "file":
        return Path(url2pathname(rest))
    return None if separator and scheme.isalnum() else Path(url)


def open_shard(url: str) -> Any:
    """A binary stream of a local or remote file."""
    place = local_path(url)
    return webdataset.gopen(url) if place is None else place.open("rb")


def read_shard(url: str) -> Iterator[Sample]:
    """Read the samples of a shard in order, as one sequential read.

    Raises:
        InputError: the shard cannot be read to its end; the samples before the damage are complete.
    """
    try:
        with open_shard(url) as stream, _opened(stream, "r|*") as archive:
            for group in grouped(_contents(archive), lambda name, reason: None):
                yield _sample(url, group)
    except Exception as error:  # tar files, pipes and connections raise their own
        raise InputError(f"shard {url} cannot be read: {_reason(error)}") from error


def inspect_shard(url: str) -> Content:
    """Count the samples of a shard; of a local one only the headers are read."""
    content = Content()

    def leave_out(name: str, reason: str) -> None:
        content.left_out.append((f"{url}/{name}", f"{url}/{name} is left out: {reason}"))

    try:
        mode = "r|*" if local_path(url) is None else "r:*"  # only files can skip contents
        with open_shard(url) as stream, _opened(stream, mode) as archive:
            for _ in grouped(_names(archive, leave_out), leave_out):
                content.samples += 1
    except Exception as error:
        content.damage = f"shard {url} cannot be read: {_reason(error)}"
    return content


def check_image(sample: Sample) -> None:
    """Raise InputError if the image cannot be decoded; decodes an eighth of its resolution."""
    with opened(sample.name, sample.image) as image:
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()


def _sample(url: str, group: Group[bytes]) -> Sample:
    label = group.members.get(f"{group.key}.cls", b"").strip()
    return Sample(
        key=group.key,
        name=f"{url}/{group.image or group.key}",
        image=b"" if group.image is None else group.members[group.image],
        label=int(label) if re.fullmatch(rb"-?\d{1,18}", label) else None,
    )


@contextmanager
def _opened(stream: IO[bytes], mode: str) -> Iterator[tarfile.TarFile]:
    """A tar file; at the end of the context a damaged header is an error, not the end of the file."""
    header = watched_headers()
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=header) as archive:  # type: ignore[call-overload]
        yield archive
        if header.damaged_at is not None:
            raise tarfile.ReadError(f"the header at byte {header.damaged_at} is damaged; what follows is lost")


def _contents(archive: tarfile.TarFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names of the members that may belong to samples, and functions that read their contents."""
    for member in archive:
        forget_members(archive)
        if _belongs(member):
            yield member.name, partial(_content, archive, member)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = archive.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) < member.size:
        raise tarfile.ReadError(f"{member.name} is truncated")
    return content


def _names(archive: tarfile.TarFile, leave_out: Callable[[str, str], None]) -> Iterator[tuple[str, Callable[[], None]]]:
    for member in archive:
        forget_members(archive)
        if _belongs(member):
            yield member.name, lambda: None
        elif not member.isdir() and not _is_meta(member.name):
            kind = "it is larger than 256 MiB" if member.isreg() else "it is not a regular file"
            leave_out(member.name, kind)


def _belongs(member: tarfile.TarInfo) -> bool:
    # Links are never followed: they could point to any file.
    return member.isreg() and not _is_meta(member.name) and member.size <= MAX_MEMBER_BYTES


def _is_meta(name: str) -> bool:
    return re.match(r"__[^/]*__($|/)", name) is not None


def _reason(error: BaseException) -> str:
    """An error's text on one line."""
    text = " ".join(str(part) for part in error.args if part) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    if isinstance(error, tarfile.ReadError):  # with one line for each compression that was tried
        for phrase, meaning in HEADER_ERRORS.items():
            text = meaning if phrase in text else text
    return " ".join(text.split())[:200]
