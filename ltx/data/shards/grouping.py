"""Which members of a tar file form a sample.

webdataset ends a key at the first dot of the file name, so `0001.jpg` and `0001.cls` form the sample `0001`, and so do
`0001.left.png`, `0001.right.png` and `0001.json`. But `photo.0.jpg`, `photo.1.jpg` and `photo.2.jpg` are three images,
whose names only happen to contain dots. The first rule applies if a sample has one image, or if a file such as
`0001.json` or `0001.cls` shares its key; otherwise each image is a sample of its own, whose key ends at the last dot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ltx.data.formats import is_image_name
from ltx.runtime.private_api import split_member_name

MAX_FIELDS = 32
"""A key with more files than this does not belong to a webdataset sample. The limit also bounds memory."""

Content = TypeVar("Content")


@dataclass
class Group(Generic[Content]):
    """The members of one sample.

    Attributes:
        key: name of the sample within the tar file.
        image: the member with the image; None if there is none.
        members: contents by member name, in order.
    """

    key: str
    image: str | None
    members: dict[str, Content]


def grouped(
    members: Iterable[tuple[str, Callable[[], Content]]], leave_out: Callable[[str, str], None]
) -> Iterator[Group[Content]]:
    """Group consecutive members of a tar file into samples, in constant memory but for a set of hashed names.

    Args:
        members: names of regular files, and functions that read their contents, in order.
        leave_out: called with the name of each member that is left out although it may be an image, and the reason.
    """
    seen: set[int] = set()
    key: str | None = None
    group: dict[str, Content] = {}
    dotted = False  # the files of this key turned out to be samples of their own
    for name, read in members:
        base, _ = split_member_name(name)
        if base is None:
            if not name.rpartition("/")[2].startswith("."):  # hidden files are left out as they are in folders
                leave_out(name, "its name has no suffix")
            continue
        if hash(name) in seen:
            leave_out(name, "another file before it has the same name")
            continue
        seen.add(hash(name))
        if base != key:
            yield from _samples(group, key, dotted, leave_out)
            key, group, dotted = base, {}, False
        if len(group) >= MAX_FIELDS:
            dotted = True
        if dotted and group and (_stem(name) != _stem(next(reversed(group))) or len(group) >= 2 * MAX_FIELDS):
            # The samples before this member are complete.
            yield from _samples(group, key, dotted, leave_out)
            group = {}
        # Only now: a member that is damaged must not cost the samples before it.
        group[name] = read()
    yield from _samples(group, key, dotted, leave_out)


def _samples(
    members: dict[str, Content], key: str | None, dotted: bool, leave_out: Callable[[str, str], None]
) -> Iterator[Group[Content]]:
    """The samples among the members of one webdataset key."""
    if not members or key is None:
        return
    images = [name for name in members if is_image_name(name)]
    shared = any(_stem(name) == key and not is_image_name(name) for name in members)
    if not dotted and (len(images) < 2 or shared):
        yield _group(key, members, leave_out)
        return
    by_stem: dict[str, dict[str, Content]] = {}
    for name, content in members.items():
        by_stem.setdefault(_stem(name), {})[name] = content
    for stem, part in by_stem.items():
        yield _group(stem, part, leave_out)


def _group(key: str, members: dict[str, Content], leave_out: Callable[[str, str], None]) -> Group[Content]:
    """A sample with its first image."""
    images = [name for name in members if is_image_name(name)]
    for name in images[1:]:
        leave_out(name, f"its sample {key} already has the image {images[0]}")
    return Group(key, images[0] if images else None, members)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
