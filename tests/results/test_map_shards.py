"""Results of whole data sets: after any kill and a restart, each image has exactly one map and one line."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch

from ltx import Explanation, InputError
from ltx.attribution.settings import AttributeConfig
from ltx.classifier.settings import ClassifierConfig
from ltx.cli.attribute import attribute_files
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.results.map_shards import MapShards, finished_maps
from tests.support.small_inputs import write_photographs, write_weights

ROOT = Path(__file__).parent.parent.parent


def explanation(numbers: range) -> Explanation:
    """An explanation in which image i has the constant map i."""
    maps = torch.tensor(list(numbers)).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Explanation(
        images=torch.zeros(len(numbers), 3, 4, 4),
        maps=maps,
        targets=torch.zeros(len(numbers), dtype=torch.long),
        labels=["a"] * len(numbers),
        probability=torch.ones(len(numbers)),
        method="toy",
        names=[f"{number}.png" for number in numbers],
    )


def stored(out: Path) -> dict[str, np.ndarray]:
    """Every map by its image; asserts that lines match members and that no image occurs twice."""
    found: dict[str, np.ndarray] = {}
    for place in sorted((out / "maps").glob("*.tar")):
        lines = [json.loads(line) for line in place.with_suffix(".jsonl").read_text().splitlines()]
        with tarfile.open(place) as archive:
            members = archive.getmembers()
            assert [line["map"] for line in lines] == [member.name for member in members]
            for line, member in zip(lines, members, strict=True):
                content = archive.extractfile(member)
                assert content is not None
                assert line["image"] not in found, "duplicate result"
                found[line["image"]] = np.load(io.BytesIO(content.read()))
    return found


def test_maps_and_lines_are_written_in_tars_of_a_given_size(tmp_path: Path) -> None:
    with MapShards(tmp_path, rank=1, ranks=2, per_shard=2) as maps:
        maps.append(explanation(range(3)), ["0", "deep/1", "2"])
    assert sorted(file.name for file in (tmp_path / "maps").iterdir()) == [
        *("00001-000000.jsonl", "00001-000000.tar", "00001-000001.jsonl", "00001-000001.tar")
    ]
    found = stored(tmp_path)
    assert finished_maps(tmp_path) == set(found) == {"0.png", "1.png", "2.png"}
    assert all(found[f"{i}.png"].dtype == np.float16 and (found[f"{i}.png"] == i).all() for i in range(3))


def test_the_tar_has_complete_members_at_every_moment(tmp_path: Path) -> None:
    maps, counts = MapShards(tmp_path), []

    def look(frame: FrameType, event: str, arg: object) -> None:
        for place in maps.folder.glob("*.tar"):
            with tarfile.open(place) as archive:
                counts.append(len(archive.getmembers()))

    sys.setprofile(look)  # called before and after each call
    try:
        maps.append(explanation(range(3)), ["0", "long " * 40, "2"])
        maps.close()
    finally:
        sys.setprofile(None)
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(8))
def test_a_truncated_tar_is_cut_to_its_complete_entries(tmp_path: Path, seed: int) -> None:
    with MapShards(tmp_path, per_shard=10) as maps:
        maps.append(explanation(range(6)), [str(i) for i in range(6)])
    place = tmp_path / "maps" / "00000-000000.tar"
    lines = place.with_suffix(".jsonl").read_bytes()
    moment = random.Random(seed)
    # Killed within a member, after the lines of the previous ones, or within a line.
    whole = moment.randrange(6)
    ends = [0, *(end + 1 for end in range(len(lines)) if lines[end : end + 1] == b"\n")]
    torn = moment.randrange(ends[whole], ends[whole + 1])
    place.with_suffix(".jsonl").write_bytes(lines[:torn])
    with tarfile.open(place) as archive:
        end = archive.getmembers()[whole].offset
    place.write_bytes(place.read_bytes()[: end + moment.randrange(1200)])
    assert len(finished_maps(tmp_path)) == whole
    with MapShards(tmp_path, per_shard=10) as maps:
        left = range(len(finished_maps(tmp_path)), 6)
        maps.append(explanation(left), [str(i) for i in left])
    found = stored(tmp_path)
    assert set(found) == {f"{i}.png" for i in range(6)}
    assert all((found[f"{i}.png"] == i).all() for i in range(6))


def test_a_tar_cut_between_two_members_gets_its_end(tmp_path: Path) -> None:
    with MapShards(tmp_path) as maps:
        maps.append(explanation(range(3)), ["0", "1", "2"])
    place = tmp_path / "maps" / "00000-000000.tar"
    whole = place.read_bytes()
    with tarfile.open(place) as archive:
        last = archive.getmembers()[-1]
    place.write_bytes(whole[: last.offset_data + 512])
    with MapShards(tmp_path):
        pass
    assert place.read_bytes().rstrip(b"\0") == whole.rstrip(b"\0")
    assert place.read_bytes().endswith(bytes(1024))
    assert finished_maps(tmp_path) == {"0.png", "1.png", "2.png"}


def test_a_tar_with_fewer_maps_than_lines_is_named(tmp_path: Path) -> None:
    with MapShards(tmp_path) as maps:
        maps.append(explanation(range(3)), ["0", "1", "2"])
    place = tmp_path / "maps" / "00000-000000.tar"
    with tarfile.open(place) as archive:
        last = archive.getmembers()[-1]
    os.truncate(place, last.offset)
    with pytest.raises(InputError, match=r"00000-000000\.tar is damaged; remove it and its \.jsonl"):
        MapShards(tmp_path)


def test_names_may_contain_unicode_line_separators(tmp_path: Path) -> None:
    names = ["caf\x85.jpg", "a\u2028b.jpg"]
    with MapShards(tmp_path, 0, 1) as maps:
        for index, name in enumerate(names):
            maps.append(replace(explanation([index]), names=[name]), [str(index)])
    assert finished_maps(tmp_path) == set(names)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_weights(folder)
    write_photographs(folder / "photos", (f"{index:04d}.jpg" for index in range(11)), (40, 40))
    make(MakeConfig(images=str(folder / "photos"), out=str(folder / "shards"), per_shard=4))
    return folder


@pytest.mark.parametrize("source", ["photos", "shards/{000000..000002}.tar"])
def test_ranks_divide_the_work_and_another_number_of_ranks_resumes(
    place: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = ClassifierConfig(
        name="resnet10t", num_classes=4, input_size=64, weights=str(place / "weights.safetensors")
    )

    def explain(rank: int, ranks: int, out: Path, save: str = "maps") -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        settings = AttributeConfig(method="gradcam", classifier=classifier, images=str(place / source), batch_size=2)
        settings.out, settings.save = str(out), save
        attribute_files(settings)

    explain(0, 1, tmp_path / "one")
    explain(1, 3, tmp_path / "many")
    assert 0 < len(stored(tmp_path / "many")) < 11
    explain(0, 2, tmp_path / "many")
    explain(1, 2, tmp_path / "many")
    explain(1, 2, tmp_path / "many")
    one, many = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert one.keys() == many.keys()
    assert len(one) == 11
    assert all(np.allclose(one[name], many[name], atol=2e-3) for name in one)
    with pytest.raises(InputError, match="2 processes write save=maps"):
        explain(0, 2, tmp_path / "pictures", save="pictures")


def test_other_images_of_the_same_name_do_not_replace_results(place: Path, tmp_path: Path) -> None:
    """A later command for the parent folder names its results differently and must not reuse existing names."""
    photos = tmp_path / "photos"
    (photos / "cats").mkdir(parents=True)
    for index, name in enumerate(("cats/a.jpg", "a.jpg", "b.jpg")):
        shutil.copy(place / "photos" / f"{index:04d}.jpg", photos / name)
    classifier = ClassifierConfig(name="resnet10t", num_classes=4, input_size=64, weights="random")
    settings = AttributeConfig(
        method="gradcam", classifier=classifier, images=str(photos / "cats"), out=str(tmp_path / "out")
    )
    attribute_files(settings)
    first = (tmp_path / "out" / "a.npz").read_bytes()
    settings.images = str(photos)
    attribute_files(settings)
    attribute_files(settings)
    assert (tmp_path / "out" / "a.npz").read_bytes() == first
    assert len(list((tmp_path / "out").glob("**/*.npz"))) == 3
    lines = [json.loads(line)["image"] for line in (tmp_path / "out" / "explanations.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(str(photos / name) for name in ("cats/a.jpg", "a.jpg", "b.jpg"))
    settings.save, settings.method = "maps", "layercam"
    with pytest.raises(InputError, match="contains explanations made with"):
        attribute_files(settings)


@pytest.mark.slow
def test_two_processes_killed_three_times_give_one_result_per_image(place: Path, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", (f"{index:04d}.png" for index in range(2000)), (16, 16), seed=1)
    make(MakeConfig(images=str(tmp_path / "photos"), out=str(tmp_path / "shards"), per_shard=300))
    out = tmp_path / "out"
    command = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "ltx",
            "attribute",
        ),
        *("method=gradcam", "classifier.name=resnet10t", "classifier.num_classes=4", "classifier.input_size=64"),
        *(f"classifier.weights={place / 'weights.safetensors'}", f"images={tmp_path}/shards/{{000000..000006}}.tar"),
        *("save=maps", "device=cpu", "batch_size=8", f"out={out}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    moments, reached = random.Random(0), []
    for kill in range(3):
        job = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        goal = (kill + 1) * 450 + moments.randrange(100)
        while len(finished_maps(out)) < goal:
            assert job.poll() is None
            time.sleep(0.05)
        children = (Path("/proc") / str(job.pid) / "task" / str(job.pid) / "children").read_text().split()
        for pid in [*children, str(job.pid)]:
            os.kill(int(pid), signal.SIGKILL)
        job.wait()
        reached.append(len(finished_maps(out)))
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True)
    found = Counter(Path(name).name for name in stored(out))
    print(f"results at each kill: {reached}")
    assert len(found) == 2000
    assert set(found.values()) == {1}
