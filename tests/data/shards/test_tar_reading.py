"""Samples in tar files: which members belong together, and what is left out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ltx.data.shards.batches import ShardBatches
from ltx.data.shards.grouping import MAX_FIELDS
from ltx.data.shards.listing import counted, expand
from ltx.data.shards.tar_reading import inspect_shard, read_shard
from ltx.runtime.errors import InputError
from tests.support.tar_files import jpeg, write_tar


def keys(file: Path) -> list[str]:
    samples = list(read_shard(str(file)))
    content = inspect_shard(str(file))
    assert content.samples == len(samples)
    assert not content.damage
    return [sample.key for sample in samples]


def left_out(file: Path) -> list[str]:
    return [Path(name).name for name, _ in inspect_shard(str(file)).left_out]


def test_images_whose_names_contain_dots_are_samples_of_their_own(tmp_path: Path) -> None:
    names = ("photo.0.jpg", "photo.1.jpg", "photo.2.jpg", "v1.2/plain.jpg")
    file = write_tar(tmp_path / "a.tar", ((name, jpeg()) for name in names))
    assert keys(file) == ["photo.0", "photo.1", "photo.2", "v1.2/plain"]
    assert left_out(file) == []
    batches = ShardBatches(counted([str(file)]), 8, batch_size=3)
    assert sum(len(samples) for samples, _ in batches) == 4


def test_names_with_dots_keep_their_labels(tmp_path: Path) -> None:
    members = [("p.0.jpg", jpeg()), ("p.0.cls", b"3"), ("p.1.jpg", jpeg()), ("p.1.cls", b"4")]
    file = write_tar(tmp_path / "a.tar", members)
    assert [(sample.key, sample.label) for sample in read_shard(str(file))] == [("p.0", 3), ("p.1", 4)]


@pytest.mark.parametrize("shared", ["0001.json", "0001.cls"])
def test_a_file_that_shares_the_key_makes_one_sample_as_in_webdataset(tmp_path: Path, shared: str) -> None:
    members = [("0001.left.png", jpeg()), ("0001.right.png", jpeg()), (shared, b"7"), ("0002.jpg", jpeg())]
    file = write_tar(tmp_path / "a.tar", members)
    assert keys(file) == ["0001", "0002"]
    assert left_out(file) == ["0001.right.png"]
    batches = ShardBatches(counted([str(file)]), 8, batch_size=2)
    assert [len(samples) for samples, _ in batches] == [2]
    assert (
        "0001.right.png is left out: its sample 0001 already has the image 0001.left.png" in batches.skipped.summary()
    )


def test_any_number_of_images_may_share_the_part_before_the_dot(tmp_path: Path) -> None:
    count = 3 * MAX_FIELDS
    file = write_tar(tmp_path / "a.tar", ((f"photo.{number:04d}.jpg", jpeg()) for number in range(count)))
    assert keys(file) == [f"photo.{number:04d}" for number in range(count)]


def test_duplicate_members_links_and_names_without_suffix_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("same.jpg", "same.jpg", "other.jpg", "same.jpg", "nosuffix", "._hidden.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg())
            archive.addfile(info, io.BytesIO(jpeg()))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert keys(file) == ["same", "other"]
    assert left_out(file) == ["same.jpg", "same.jpg", "nosuffix", "link.jpg"]
    reason = dict(inspect_shard(str(file)).left_out)[f"{file}/same.jpg"]
    assert reason == f"{file}/same.jpg is left out: another file before it has the same name"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"junk" * 300, "it is not a tar file"), (b"", "it is empty"), (b"x", "truncated, or not a")],
)
def test_a_file_that_is_not_a_tar_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "junk.tar").write_bytes(content)
    for read in (lambda url: list(read_shard(url)), lambda url: counted([url])):
        with pytest.raises(InputError, match=reason) as caught:
            read(str(tmp_path / "junk.tar"))
        assert "\n" not in str(caught.value)
        assert "(" not in str(caught.value).partition("cannot be read")[2]


@pytest.mark.parametrize("damage", ["image", "cut header", "flipped header"])
def test_a_truncated_tar_keeps_the_samples_before_the_damage(tmp_path: Path, damage: str) -> None:
    file = write_tar(tmp_path / "a.tar", ((f"{number}.jpg", jpeg()) for number in range(4)))
    with tarfile.open(file) as archive:
        third = archive.getmember("2.jpg")
    content = bytearray(file.read_bytes())
    if damage == "flipped header":
        content[third.offset] ^= 1
    else:
        del content[third.offset_data + 100 if damage == "image" else third.offset + 40 :]
    file.write_bytes(content)
    good = write_tar(tmp_path / "b.tar", [("x.jpg", jpeg())])
    with pytest.raises(InputError, match=r"a\.tar cannot be read"):
        counted([str(file), str(good)])
    batches = ShardBatches(counted([str(file), str(good)], damaged=True), 8, batch_size=2)
    assert [sample.key for samples, _ in batches for sample in samples] == ["0", "1", "x"]
    assert [url for url, _ in batches.failed] == [str(file)]


def test_braces_for_too_many_shards_are_refused() -> None:
    with pytest.raises(InputError, match="the braces stand for more than"):
        expand("{0..99999999999}.tar")
