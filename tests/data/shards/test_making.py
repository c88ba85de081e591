"""Packing of image files into shards."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ltx.data.shards.listing import is_shards
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.data.shards.streaming import ShardData
from ltx.data.shards.tar_reading import read_shard
from ltx.data.training_images import StreamSettings
from ltx.runtime.errors import InputError
from tests.support.small_inputs import write_photographs


def test_making_is_complete_repeatable_and_resumable(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "class.0" / "broken.jpg").write_bytes((folder / "class.0" / "00.v1.jpg").read_bytes()[:300])
    labels = tmp_path / "labels.csv"
    rows = [f"photos/{file.relative_to(folder)},{int(file.parent.name[-1])}" for file in sorted(folder.rglob("*.jpg"))]
    labels.write_text("\n".join(["file,class_index", *rows]))
    config = MakeConfig(images=str(folder), out=str(tmp_path / "out"), per_shard=8, labels=str(labels))
    manifest = json.loads(make(config).read_text())
    assert manifest["samples"] == 28
    assert [shard["name"] for shard in manifest["shards"]] == [f"00000{number}.tar" for number in range(4)]
    out = tmp_path / "out"
    assert all((out / shard["name"]).stat().st_size == shard["bytes"] for shard in manifest["shards"])
    samples = [sample for shard in manifest["shards"] for sample in read_shard(str(out / shard["name"]))]
    assert len({sample.key for sample in samples}) == 28
    by_key = {sample.key: sample for sample in samples}
    assert by_key["class_1/07_v1"].image == (folder / "class.1" / "07.v1.jpg").read_bytes()
    assert by_key["class_1/07_v1"].label == 1
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "000002.tar").unlink()
    (out / "manifest.json").unlink()
    (out / ".0123456789abcdef.part").write_bytes(b"part of a shard, left by a killed process")
    make(config)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first
    with pytest.raises(InputError, match="shards of other images or settings"):
        make(MakeConfig(images=str(folder), out=str(out), per_shard=9, labels=str(labels)))
    ShardData(str(out), StreamSettings(size=8, batch_size=2, max_steps=2, val_share=0)).setup()
    assert is_shards(str(out))
    assert not is_shards(str(folder))


def test_images_are_shrunk_to_a_shorter_side(photos: Path, tmp_path: Path) -> None:
    make(MakeConfig(images=str(photos), out=str(tmp_path / "out"), side=12))
    sizes = {Image.open(io.BytesIO(sample.image)).size for sample in read_shard(str(tmp_path / "out/000000.tar"))}
    assert sizes == {(15, 12)}


@pytest.mark.parametrize(("folder", "listed"), [("photos", "absolute"), ("../{here}/photos", "photos")])
def test_labels_match_however_paths_are_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str, listed: str
) -> None:
    write_photographs(tmp_path / "photos", ["a.png", "b.png"], (8, 8))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "photos" if listed == "absolute" else listed
    Path("labels.csv").write_text(f"file,class_index\n{place}/b.png,5\n")
    make(MakeConfig(images=folder.format(here=tmp_path.name), out="out", labels="labels.csv"))
    assert {sample.key: sample.label for sample in read_shard("out/000000.tar")} == {"a": None, "b": 5}
    assert "1 of 2 images have no label in labels.csv" in capsys.readouterr().out
    Path("labels.csv").write_text("file,class_index\nothers/b.png,5\n")
    with pytest.raises(InputError, match=r"labels=labels\.csv contains none of the 2 images"):
        make(MakeConfig(images="photos", out="other", labels="labels.csv"))


def test_an_image_that_is_too_wide_for_a_jpeg_is_skipped_with_its_name(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", ["a.png"], (8, 8))
    Image.new("L", (65501, 1)).save(tmp_path / "photos" / "wide.png")
    manifest = make(MakeConfig(images=str(tmp_path / "photos"), out=str(tmp_path / "out"), side=8))
    (skipped,) = json.loads(manifest.read_text())["skipped"]
    assert skipped["file"] == str(tmp_path / "photos" / "wide.png")
    assert "65501x1 pixels; a JPEG has at most 65500" in skipped["reason"]


def test_images_whose_keys_coincide_are_all_kept(tmp_path: Path) -> None:
    names = ["a.b.png", "a_b.png", "a_b_0.png", "a_b_2.png"]
    write_photographs(tmp_path / "photos", names, (8, 8))
    make(MakeConfig(images=str(tmp_path / "photos"), out=str(tmp_path / "out")))
    keys = [sample.key for sample in read_shard(str(tmp_path / "out" / "000000.tar"))]
    assert sorted(keys) == ["a_b", "a_b_0", "a_b_2", "a_b_2_2"]


@pytest.mark.parametrize("options", [{}, {"images": "scikit-image", "shards": "a.tar"}])
def test_images_or_shards_but_not_both(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="either images=… to pack or shards=… to count"):
        make(MakeConfig(**options))


@pytest.mark.parametrize("content", ["[", "[3]", "[" * 100_000, '[["a.jpg"]]'])
def test_a_damaged_record_of_skipped_files_is_one_line(photos: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "class.0" / "broken.jpg").write_bytes(b"no picture")
    config = MakeConfig(images=str(folder), out=str(tmp_path / "out"), per_shard=100)
    make(config)
    (tmp_path / "out" / ".000000.skipped.json").write_text(content)
    with pytest.raises(InputError, match=r"\.000000\.skipped\.json is damaged \(.*remove it and .*000000\.tar"):
        make(config)
