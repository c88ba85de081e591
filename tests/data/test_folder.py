"""The training stream: the same crop at each position, for any number of ranks and after a resumption."""

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ltx.data.cropping import Cropping, random_box
from ltx.data.folder import Crops, FolderData, Stream, names_below
from ltx.data.stored_maps import StoredMaps
from ltx.data.training_images import StreamSettings, hold_out
from ltx.runtime.errors import InputError
from tests.support.small_inputs import close_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for index in range(7):
        file = tmp_path / "photos" / f"{'ab'[index % 2]}/{index}.{'png' if index < 4 else 'jpg'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8)).save(file)
    return tmp_path / "photos"


def data(folder: Path, **options: Any) -> FolderData:
    settings: dict[str, Any] = {"size": 16, "batch_size": 2, "max_steps": 10, "workers": 0, "seed": 3} | options
    return FolderData(folder, StreamSettings(**settings))


# -- the stream ----------------------------------------------------------------------------------------------------


def test_each_epoch_shows_each_image_once_in_a_new_order() -> None:
    stream = Stream(count=7, batch_size=2, length=14, seed=3)
    draws = [draw for batch in stream for draw in batch]
    assert [position for _, position in draws] == list(range(28))
    epochs = [[index for index, _ in draws[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = [draw for batch in Stream(count=7, batch_size=2, length=14, seed=4) for draw in batch]
    assert other != draws


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 3), (3, 2), (6, 1)])
def test_ranks_divide_the_batch_of_a_single_rank(ranks: int, batch_size: int) -> None:
    alone = list(Stream(count=7, batch_size=6, length=5, seed=3))
    shared = [Stream(7, batch_size, 5, seed=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [list(itertools.chain(*parts)) for parts in zip(*shared, strict=True)] == alone


def test_a_resumed_stream_is_the_remainder_with_the_full_length() -> None:
    whole, rest = Stream(7, 2, 9), Stream(7, 2, 9, start=4)
    assert list(rest) == list(whole)[4:]
    assert len(rest) == len(whole) == 9


class Recorder(lightning.LightningModule):
    """A module with one weight that records the exact bytes of each step's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, int, list[int], bytes]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        pixels = batch["image"].mul(255).byte().numpy().tobytes()
        self.seen.append((self.global_step, batch_idx, batch["index"].tolist(), pixels))
        return (self.weight - batch["image"].mean()).square().sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class SaveAt(lightning.Callback):
    """Saves a checkpoint between two optimiser steps, then stops the training as a kill would."""

    def __init__(self, step: int, file: Path) -> None:
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)
            trainer.should_stop = True


def fit(folder: Path, accumulate: int, workers: int, resume: Path | None = None, save: SaveAt | None = None) -> Any:
    module = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=10,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        val_check_interval=4 * accumulate,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[save] if save else [],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        source = data(folder, accumulate=accumulate, workers=workers)
        trainer.fit(module, datamodule=source, ckpt_path=resume, weights_only=True if resume else None)
    return module, trainer


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_training_sees_the_same_batches(folder: Path, tmp_path: Path, accumulate: int, workers: int) -> None:
    whole, trainer = fit(folder, accumulate, workers)
    assert trainer.global_step == 10
    assert len(whole.seen) == 10 * accumulate
    file = tmp_path / "last.ckpt"
    before, stopped = fit(folder, accumulate, workers, save=SaveAt(6, file))
    assert stopped.global_step == 6
    after, resumed = fit(folder, accumulate, workers, resume=file)
    assert resumed.global_step == 10
    assert before.seen + after.seen == whole.seen
    assert torch.equal(after.weight, whole.weight)


def test_resume_points_look_at_the_files_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Path] = []
    monkeypatch.setattr("ltx.data.folder.file_state", lambda file: looked_at.append(file) or "1 1")
    source = data(folder)
    source.setup()
    state = source.state_dict()
    assert source.state_dict() == state
    assert len(looked_at) == len(source.train_files)
    monkeypatch.setattr("ltx.data.folder.file_state", lambda file: "1 2")
    later = data(folder)
    later.setup()
    with pytest.warns(UserWarning, match="the training images are not those of the interrupted run"):
        later.load_state_dict(state)


def test_batches_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    batches = []
    for workers in (0, 2):
        source = data(folder, workers=workers, max_steps=3)
        source.setup()
        batches.append([batch["image"] for batch in source.train_dataloader()])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


# -- crops ---------------------------------------------------------------------------------------------------------


def test_a_crop_depends_only_on_seed_and_position(folder: Path) -> None:
    files = sorted(folder.rglob("*.*"))
    crops = Crops(files, Cropping((16, 16), seed=3))
    first = crops[2, 5]["image"]
    crops[4, 9]
    assert torch.equal(crops[2, 5]["image"], first)
    assert not torch.equal(crops[2, 6]["image"], first)
    assert not torch.equal(Crops(files, Cropping((16, 16), seed=4))[2, 5]["image"], first)
    assert first.dtype == torch.uint8
    assert first.shape == (3, 16, 16)


def test_a_full_image_crop_is_the_image_or_its_mirror_image(tmp_path: Path) -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    crops = Crops([tmp_path / "a.png"], Cropping((16, 16), seed=0, scale=(1.0, 1.0)))
    seen = [crops[0, position]["image"] for position in range(40)]
    mirrored = [torch.equal(crop, image.flip(2)) for crop in seen]
    assert all(m or torch.equal(crop, image) for m, crop in zip(mirrored, seen, strict=True))
    assert 8 < sum(mirrored) < 32


def test_maps_are_cropped_with_their_images(tmp_path: Path) -> None:
    # The map is the brightness of a smooth image: cropped alike, they stay alike.
    across, down = np.meshgrid(np.linspace(0, 1, 96), np.linspace(0, 1, 64))
    brightness = 0.6 * across + 0.4 * down**2
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    maps = StoredMaps(tmp_path / "maps", "brightness")
    for file, values in zip(files, (brightness, 1 - brightness), strict=True):
        Image.fromarray((255 * values).round().astype(np.uint8)).save(file)
        maps.write(file, torch.from_numpy(values), target=int(file.stem == "b"))
    source = FolderData(files, StreamSettings(32, 8, max_steps=4, val_share=0, workers=0, seed=1), maps)
    source.setup()
    for batch in source.train_dataloader():
        assert torch.equal(batch["map_target"], batch["index"])
        cut = torch.nn.functional.interpolate(batch["map"], (32, 32), mode="bilinear", antialias=True)
        assert (cut - batch["image"][:, :1].float() / 255).abs().max() < 0.02


def test_random_boxes_lie_inside_and_keep_area_and_aspect_ratio() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        left, top, right, bottom = random_box((50, 40), 1.0, (0.2, 0.6), random)
        assert 0 <= left < right <= 50 + 1e-9
        assert 0 <= top < bottom <= 40 + 1e-9
        assert 0.2 - 1e-9 <= (right - left) * (bottom - top) / 2000 <= 0.6 + 1e-9
        assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9
    assert random_box((300, 20), 1.0, (0.9, 1.0), random) == (140, 0, 160, 20)


def test_reduced_jpeg_decoding_is_close_to_full_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 255, 640, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (480, 1)), np.tile(ramp[:480, None], (1, 640)), np.full((480, 640), 90)], 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    crops = Crops([tmp_path / "a.jpg"], Cropping((32, 32), seed=0, flip=False))
    sizes = []
    from ltx.data import cropping as module

    decode = module.decoded

    def spy(image: Image.Image, *options: Any) -> torch.Tensor:
        sizes.append(image.size)
        return decode(image, *options)

    monkeypatch.setattr(module, "decoded", spy)
    fast = [crops[0, position]["image"] for position in range(8)]
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
    full = [crops[0, position]["image"] for position in range(8)]
    assert max(width for width, _ in sizes[:8]) < 640 <= min(width for width, _ in sizes[8:])
    assert max((a.int() - b.int()).abs().max() for a, b in zip(fast, full, strict=True)) < 8


# -- files ---------------------------------------------------------------------------------------------------------


def held_out(files: list[Path], root: Path, seed: int) -> tuple[list[Path], list[Path]]:
    return hold_out(files, names_below(root, files), 0.3, seed, "file")


def test_held_out_files_do_not_depend_on_order_or_place(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.*"))
    train, val = held_out(files, folder, seed=0)
    assert (len(train), len(val)) == (5, 2)
    assert set(train) | set(val) == set(files)
    assert set(held_out(files[::-1], folder, seed=0)[1]) == set(val)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    elsewhere = held_out(sorted(moved.rglob("*.*")), moved, seed=0)[1]
    assert [f.relative_to(moved) for f in elsewhere] == [f.relative_to(folder) for f in val]
    assert any(set(held_out(files, folder, seed)[1]) != set(val) for seed in range(1, 5))


def test_the_held_out_names_do_not_change_between_versions() -> None:
    files = [f"n{index:02d}/é{index}.jpg" for index in range(8)]
    assert hold_out(range(8), files, 0.3, 5, "file")[1] == [0, 1]
    shards = [f"n{index:02d}_é{index}.jpg.tar" for index in range(8)]
    assert hold_out(range(8), shards, 0.3, 5, "shard")[1] == [6, 7]


def test_a_name_that_is_not_valid_utf8_can_be_held_out(folder: Path) -> None:
    (folder / "a/0.png").rename(folder / os.fsdecode(b"a/caf\xe9.png"))
    source = data(folder, val_share=0.3)
    source.setup()
    assert (source.train_count, source.val_count) == (5, 2)
    assert len([name for batch in source.train_dataloader() for name in batch["name"]]) == 20


def test_validation_shows_full_images_in_order(folder: Path) -> None:
    source = data(folder / "a", val_images=folder / "b")
    source.setup("fit")
    source.setup("fit")
    batches = list(source.val_dataloader())
    assert [len(batch["index"]) for batch in batches] == [2, 1]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2]
    images = torch.cat([batch["image"] for batch in batches]).float() / 255
    assert torch.equal(source.validation_images(2), images[:2])
    assert (source.train_count, source.val_count) == (4, 3)


def test_folders_that_cannot_be_listed_are_named_and_training_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = [close_folder(folder / part / "lost+found", monkeypatch) for part in "ab"]
    source = data(folder / "a", val_images=folder / "b")
    source.setup()
    assert (source.train_count, source.val_count) == (4, 3)
    for place in closed:
        assert f"1 folder cannot be listed: {place} (Permission denied)" in source.describe()
    with pytest.raises(InputError, match=r"lost\+found contains no image; 1 folder cannot be listed"):
        data([folder / "a", closed[0]]).setup()


def test_no_validation(folder: Path) -> None:
    source = data(folder, val_share=0)
    source.setup()
    assert source.val_dataloader() == []
    assert source.validation_images(2).shape == (2, 3, 16, 16)


def test_an_image_in_both_training_and_validation_is_named(folder: Path) -> None:
    (folder / "b/link.png").symlink_to(folder / "a/0.png")
    with pytest.raises(InputError, match=r"link\.png is in both images and val_images"):
        data(folder / "a", val_images=folder / "b").setup()


def test_the_next_image_replaces_a_broken_one_which_is_named_once(folder: Path) -> None:
    (folder / "a/0.png").write_bytes(b"")
    source = data(folder, val_share=0)
    with pytest.warns(UserWarning, match=r"0\.png is empty; the next image takes its place") as caught:
        source.setup()  # reads images up to the first readable one; a complete training reads no others
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        indices = torch.cat([batch["index"] for batch in source.train_dataloader()]).tolist()
    wanted = [index for batch in Stream(7, 2, 10, seed=3) for index, _ in batch]
    assert wanted.count(0) > 1
    assert indices == [index or 1 for index in wanted]
    assert source.broken_count == 1


def test_no_readable_image_stops_before_training(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        file.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one line, however many images there are
        with pytest.raises(InputError, match=r"none of the 6 images can be read; .*is empty"):
            data(folder).setup()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"crop_scale": (0.5, 0.2)}, r"crop_scale=\[0.5, 0.2\]"),
        ({"val_share": 1.0}, "val_share=1.0"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_invalid_numbers(folder: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        data(folder, **options)


def test_one_image_cannot_be_divided(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="val_share=0"):
        data(tmp_path).setup()
