"""Streams from shards: each sample once per epoch for any ranks and workers, resumable at any step."""

from __future__ import annotations

import functools
import http.server
import io
import itertools
import json
import shutil
import tarfile
import threading
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from ltx.data.folder import Crops, FolderData
from ltx.data.shards.batches import ShardBatches
from ltx.data.shards.listing import counted, expand
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.data.shards.streaming import ShardData
from ltx.data.shards.tar_reading import read_shard
from ltx.data.training_images import StreamSettings
from ltx.runtime.errors import InputError
from tests.support.small_inputs import close_folder, write_photographs

COUNTS = [3, 5, 1, 4, 6, 2, 4, 3]


@pytest.fixture(scope="module")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards of unequal sizes without a manifest."""
    folder = tmp_path_factory.mktemp("shards")
    files = iter(sorted(photos.rglob("*.jpg")))
    for number, count in enumerate(COUNTS):
        with tarfile.open(folder / f"{number:06d}.tar", "w") as archive:
            for _ in range(count):
                file = next(files)
                archive.add(file, f"{file.parent.name.replace('.', '_')}/{file.name.split('.')[0]}.jpg")
    return folder


def data(shards: Any, rank: int = 0, ranks: int = 1, step: int = 0, **options: Any) -> ShardData:
    settings: dict[str, Any] = {"size": 8, "batch_size": 2, "max_steps": 28, "workers": 0, "seed": 3, "val_share": 0}
    manifest = options.pop("manifest", None)
    source = ShardData(shards, StreamSettings(**settings | options), manifest, shuffle=4)
    source.trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    source.setup()
    return source


# -- ranks and workers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "workers", "fix"), [(4, 3, r"set data\.workers=2 or less"), (9, 1, "use 8 devices or fewer")]
)
def test_too_few_shards_are_refused_with_the_numbers_and_a_fix(
    shards: Path, ranks: int, workers: int, fix: str
) -> None:
    with pytest.raises(InputError, match=rf"8 shards .* {ranks} ranks x {workers} workers = {ranks * workers}.*{fix}"):
        data(shards, 0, ranks, workers=workers)


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_a_rank_without_a_validation_image_stops_before_training(shards: Path, photos: Path, kind: str) -> None:
    """The other ranks would wait for it forever when they combine their scores."""
    settings = StreamSettings(size=8, batch_size=2, max_steps=3, val_share=0.125, workers=0)
    source = ShardData(shards, settings) if kind == "shards" else FolderData(photos, settings)
    source.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=7)  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"\d validation images cannot be divided among 7 devices; give more with"):
        source.setup()


def with_cores(shards: Path, cores: int, rank: int, step: int = 0, fewest: int = 2) -> ShardData:
    """The data of one of two ranks, whose lowest number of cores is `fewest`."""
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), reduce=lambda own, reduce_op: min(own, torch.tensor(fewest))
    )
    source = ShardData(shards, StreamSettings(8, 2, 20, workers=None, val_share=0, seed=3), shuffle=4)
    source.workers = cores
    source.trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=2, strategy=strategy)  # type: ignore[assignment]
    source.setup()
    return source


def test_ranks_agree_on_a_number_of_workers(shards: Path) -> None:
    assert with_cores(shards, 9, 0, fewest=9).workers == 4, "eight shards"
    sources = [with_cores(shards, 3, 0), with_cores(shards, 2, 1)]
    assert [source.workers for source in sources] == [2, 2]
    loaders = [source.train_dataloader() for source in sources]
    names = [name for batches in itertools.islice(zip(*loaders, strict=True), 7) for b in batches for name in b["name"]]
    assert len(set(names)) == len(names) == 28, "each once"


def test_a_resumed_run_uses_its_previous_number_of_workers(shards: Path) -> None:
    first = with_cores(shards, 2, 0)
    later = with_cores(shards, 1, 0, step=7, fewest=1)
    assert later.workers == 1
    later.load_state_dict(first.state_dict())
    whole, rest = list(first.train_dataloader())[7:], list(later.train_dataloader())
    assert [batch["name"] for batch in whole] == [batch["name"] for batch in rest]
    fixed = data(shards, 0, 2, workers=1)
    text = (
        "by 2 processes with 2 workers each in batches of 2, now by 2 with 1 in batches of 2, which changes the order"
    )
    with pytest.warns(UserWarning, match=text):
        fixed.load_state_dict(first.state_dict())
    assert fixed.workers == 1, "the setting has precedence"


def test_another_batch_size_is_another_order_of_which_a_resumed_run_warns(shards: Path) -> None:
    state = data(shards).state_dict()
    with pytest.warns(UserWarning, match="1 workers each in batches of 2, now by 1 with 1 in batches of 4"):
        data(shards, batch_size=4).load_state_dict(state)
    del state["batch_size"]  # an earlier version's
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data(shards, batch_size=4).load_state_dict(state)


def test_replaced_shards_are_noticed_by_a_resumed_run(shards: Path, tmp_path: Path) -> None:
    copies = tmp_path / "shards"
    shutil.copytree(shards, copies)
    state = data(copies).state_dict()
    shutil.copy(copies / "000001.tar", copies / "000002.tar")
    with pytest.warns(UserWarning, match="the training images are not those of the interrupted run"):
        data(copies).load_state_dict(state)


# -- the stream of images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (4, 0), (4, 2)])
def test_loaders_show_each_key_once_per_epoch(shards: Path, ranks: int, workers: int) -> None:
    steps = 28 // (2 * ranks) + 1
    names: list[str] = []
    loaders = [data(shards, rank, ranks, workers=workers, max_steps=steps).train_dataloader() for rank in range(ranks)]
    for batches in zip(*loaders, strict=True):
        names += [name for batch in batches for name in batch["name"]]
    assert len(names) == steps * 2 * ranks
    assert len(set(names[:28])) == 28


def test_a_resumed_stream_is_the_remainder_to_the_byte(shards: Path) -> None:
    whole = list(data(shards, 1, 2, workers=2, max_steps=20).train_dataloader())
    rest = list(data(shards, 1, 2, workers=2, max_steps=20, step=7).train_dataloader())
    assert len(rest) == 13
    for a, b in zip(whole[7:], rest, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["position"], b["position"])


def test_items_equal_the_crops_of_the_files(shards: Path, photos: Path) -> None:
    source = data(shards)
    batch = next(iter(source.train_dataloader()))
    for row, name in enumerate(batch["name"]):
        folder, file = name.rsplit("/", 2)[-2:]
        path = photos / folder.replace("_", ".") / file.replace(".jpg", ".v1.jpg")
        assert torch.equal(batch["image"][row], Crops([path], source.cropping)[0, int(batch["position"][row])]["image"])
    assert batch["label"].tolist() == [-1, -1]


def test_validation_images_are_whole_shards_or_files(shards: Path, photos: Path) -> None:
    held = data(shards, val_share=0.25)
    assert len(held.val_shards) == 2
    assert held.train_count + held.val_count == 28
    seen = [
        name
        for rank in range(2)
        for batch in data(shards, rank, 2, val_share=0.25).val_dataloader()
        for name in batch["name"]
    ]
    assert len(set(seen)) == len(seen) == held.val_count
    files = data(shards, val_images=photos)
    assert files.val_count == 28
    assert files.validation_images(3).shape == held.validation_images(3).shape == (3, 3, 8, 8)
    with pytest.raises(InputError, match=r"000000\.tar is in both"):
        data(shards, val_images=str(shards / "000000.tar"))


def test_folders_of_validation_files_that_cannot_be_listed_are_named(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = close_folder(write_photographs(tmp_path / "val", ["1.jpg"], (20, 20)) / "lost+found", monkeypatch)
    files = data(shards, val_images=tmp_path / "val")
    files.setup()
    assert files.describe().endswith(f"images in files; 1 folder cannot be listed: {closed} (Permission denied)")


# -- damage --------------------------------------------------------------------------------------------------------


def test_a_broken_image_is_named_counted_and_replaced(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    write_shard(folder / "000001.tar", "good", "bad", "also")
    source = data(folder, max_steps=13)
    with pytest.warns(
        UserWarning, match=r"000001\.tar/bad\.jpg is not an image; the next image takes its place"
    ) as told:
        names = [name for batch in source.train_dataloader() for name in batch["name"]]
    assert sum("bad.jpg" in str(warning.message) for warning in told) == 1
    assert source.broken_count == 1
    seen = Counter(names)  # 26 samples, one of them bad: 25 pictures and one of them twice
    assert len(seen) == 25
    assert sorted(seen.values()) == [1] * 24 + [2]


def write_shard(file: Path, *keys: str) -> None:
    """Write a shard with one image per key; the image is broken if its key contains "bad"."""
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(stream, "jpeg")
    with tarfile.open(file, "w") as archive:
        for key in keys:
            content = b"no picture" if "bad" in key else stream.getvalue()
            info = tarfile.TarInfo(f"{key}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_a_broken_image_is_named_once_over_several_validations(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each validation starts new loading processes, which share one count."""
    told = tmp_path / "told.txt"  # by every process

    def tell(message: Warning | str, *_: Any) -> None:
        with told.open("a") as file:
            file.write(f"{message}\n")

    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", "bad", "good")
    torn = tmp_path / "c.tar"
    write_shard(torn, "good", "good1", "lost2")
    torn.write_bytes(torn.read_bytes()[:3684])  # within the third image
    counts = [{"name": f"{name}.tar", "samples": count} for name, count in zip("abc", (2, 2, 3), strict=True)]
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": counts}))
    source = data(shards, val_images=[str(tmp_path / f"{name}.tar") for name in "abc"], workers=2)
    monkeypatch.setattr(warnings, "showwarning", tell)
    assert len(source.validation_images(1)) == 1
    shown = [[name for batch in source.val_dataloader() for name in batch["name"]] for _ in range(3)]
    assert [len(names) for names in shown] == [4, 4, 4]
    assert source.broken_count == 3
    lines = [line for line in told.read_text().splitlines() if "is not an image" in line or "cannot be read" in line]
    assert sorted(line.split(".tar")[0][-1] for line in lines) == ["a", "b", "c"]
    other = data(shards, 1, 2, val_images=str(torn))
    assert [Path(name).name for batch in other.val_dataloader() for name in batch["name"]] == ["good1.jpg"]
    assert other.broken_count == 0, "the first and the third belong to the other rank"


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "brk.tar", "bad0", "bad1")
    write_shard(tmp_path / "mixed.tar", "good", "bad")
    broken, mixed = (counted([str(tmp_path / name)]) for name in ("brk.tar", "mixed.tar"))
    with pytest.raises(
        InputError, match=r"none of the 2 images can be read; skipped 2 files: .*bad0\.jpg is not an im"
    ):
        list(ShardBatches(broken, 4, batch_size=1))
    assert list(ShardBatches(broken, 4, batch_size=1, rank=0, ranks=2)) == []  # other ranks may have readable ones
    done = [name for batch, _ in ShardBatches(mixed, 4, batch_size=1) for name in (sample.name for sample in batch)]
    rest = ShardBatches(mixed, 4, batch_size=1, known=lambda image: image.path in done)
    assert list(rest) == []
    assert len(rest.skipped) == 1
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [{"name": "torn.tar", "samples": 3}]}))
    (tmp_path / "torn.tar").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"none of the 3 images can be read; skipped 1 file: shard .*torn\.tar"):
        list(ShardBatches(counted([str(tmp_path / "torn.tar")]), 4, batch_size=1))


def test_a_truncated_shard_loses_only_its_end(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(shards, folder)
    counts = [{"name": f"{number:06d}.tar", "samples": count} for number, count in enumerate(COUNTS)]
    (folder / "manifest.json").write_text(json.dumps({"shards": counts}))
    torn = folder / "000004.tar"
    whole = [sample.key for sample in read_shard(str(torn))]
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 3])
    left: list[str] = []
    with pytest.raises(InputError, match=r"000004\.tar cannot be read"):
        left.extend(sample.key for sample in read_shard(str(torn)))
    source = data(folder, max_steps=14)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        names = [name for batch in source.train_dataloader() for name in batch["name"]]
    lost = 28 - len(set(names))
    assert 0 < lost < len(whole)
    assert source.broken_count == lost
    assert any(f"{lost} images are lost" in str(warning.message) for warning in told)


def test_a_shard_that_ends_between_two_samples_counts_as_truncated(shards: Path, tmp_path: Path) -> None:
    """A tar file cut between two members is valid, so only the manifest's count shows the loss."""
    write_shard(tmp_path / "cut.tar", "good0", "good1")
    write_shard(tmp_path / "long.tar", "good2", "good3")
    counts = [{"name": "cut.tar", "samples": 4}, {"name": "long.tar", "samples": 1}]
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": counts}))
    source = data(shards, val_images=[str(tmp_path / "cut.tar"), str(tmp_path / "long.tar")])
    with pytest.warns(UserWarning, match=r"cut\.tar contains 2 samples, 4 by its manifest; the rest of it is skipped"):
        shown = [Path(name).stem for batch in source.val_dataloader() for name in batch["name"]]
    assert shown == ["good0", "good1", "good2"]
    assert source.broken_count == 2
    explained = ShardBatches(counted([str(tmp_path / "cut.tar"), str(tmp_path / "long.tar")]), 4, batch_size=2)
    assert [Path(sample.name).stem for batch, _ in explained for sample in batch] == ["good0", "good1", "good2"]
    assert "4 by its manifest" in explained.skipped.summary()


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_rank_has_validation_images_from_small_shards(shards: Path, tmp_path: Path, ranks: int) -> None:
    """A rank without an image would block the others, which wait for its scores."""
    for number in range(7):
        write_shard(tmp_path / f"{number}.tar", f"good{number}")
    places = [str(tmp_path / f"{number}.tar") for number in range(7)]
    shown = []
    for rank in range(ranks):
        batches = data(shards, rank, ranks, val_images=places).val_dataloader()
        shown.append([Path(name).stem for batch in batches for name in batch["name"]])
    assert [len(names) for names in shown] == [len(range(rank, 7, ranks)) for rank in range(ranks)]
    assert sorted(name for names in shown for name in names) == [f"good{number}" for number in range(7)]


# -- finding shards ------------------------------------------------------------------------------------------------


def test_braces_lists_folders_and_globs(shards: Path) -> None:
    every = [str(shards / f"{number:06d}.tar") for number in range(8)]
    assert expand(str(shards / "{000000..000007}.tar")) == every
    assert expand([str(shards / "{000000..000003}.tar"), str(shards / "00000[4-7].tar")]) == every
    assert expand(shards) == every
    assert [shard.samples for shard in counted(every)] == COUNTS
    with pytest.raises(InputError, match=r"000008\.tar does not exist; check its path and the numbers in braces"):
        expand(str(shards / "{000000..000008}.tar"))
    with pytest.raises(InputError, match=r"contains no \.tar"):
        expand(shards.parent / "*.tar")


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http through curl")
def test_remote_shards(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    shutil.copytree(shards, folder)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{{000000..000007}}.tar"
        with pytest.raises(InputError, match=r"there is no http.*manifest\.json, so its samples cannot be counted"):
            data(url)
        manifest = make(MakeConfig(shards=url, out=str(tmp_path / "counted")))
        steps = {"max_steps": 14}
        far = [batch["name"] for batch in data(url, manifest=str(manifest), **steps).train_dataloader()]
        shutil.copy(manifest, folder)
        assert [batch["name"] for batch in data(url, **steps).train_dataloader()] == far
        server.shutdown()
    near = [batch["name"] for batch in data(shards, **steps).train_dataloader()]
    assert [[name.rsplit("/", 3)[1:] for name in batch] for batch in far] == [
        [name.rsplit("/", 3)[1:] for name in batch] for batch in near
    ]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass
