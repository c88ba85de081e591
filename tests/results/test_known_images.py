"""Images are identified by absolute path and content, without reading them twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx import Classifier, Explanation
from ltx.data.image_batches import ImageBatches
from ltx.results import streaming
from ltx.results.settings import ExplainConfig
from ltx.results.streaming import Explained, explain_files
from ltx.runtime.exclusive_folder import exclusive
from tests.support.small_inputs import write_photographs
from tests.support.tar_files import jpeg, write_tar


def run(classifier: Classifier, images: str, out: Path, save: str = "pictures") -> tuple[Explained, list[str]]:
    """Explain with the mean colour as the map; returns the result and the names that were explained."""
    explained: list[str] = []

    def explain(images: Tensor, targets: object, names: list[str]) -> Explanation:
        explained.extend(names)
        return Explanation(
            images=images,
            maps=images.mean(1, keepdim=True),
            targets=torch.zeros(len(images), dtype=torch.long),
            labels=["left"] * len(images),
            probability=torch.ones(len(images)),
            method="toy",
            names=names,
        )

    config = ExplainConfig(images=images, out=str(out), save=save, batch_size=2, device="cpu")
    return explain_files(config, explain, classifier, {"method": "toy"}), explained


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]


def test_the_same_relative_path_in_two_folders_is_two_images(
    tiny_classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for number, folder in enumerate(("d1", "d2")):
        write_photographs(tmp_path / folder / "x", ["1.jpg"], (20, 20), seed=number)
        monkeypatch.chdir(tmp_path / folder)
        done, explained = run(tiny_classifier, "x/1.jpg", out)
        assert explained == ["x/1.jpg"]
        assert done.count == number + 1
    first, second = lines(out)
    assert [first["image"], second["image"]] == ["x/1.jpg", "x/1.jpg"]
    assert first["stem"] != second["stem"]
    assert len(list(out.rglob("*.npz"))) == 2
    assert [line["source"]["path"] for line in (first, second)] == [  # type: ignore[index]
        str(tmp_path / folder / "x/1.jpg") for folder in ("d1", "d2")
    ]
    assert run(tiny_classifier, "x/1.jpg", out)[1] == []
    assert run(tiny_classifier, str(tmp_path / "d1/x/1.jpg"), out)[1] == [], "the same image under its absolute path"


def test_results_of_a_command_that_ended_just_before_are_known(
    tiny_classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_photographs(tmp_path / "in", ["1.jpg"], (20, 20)), tmp_path / "out"

    @contextmanager
    def after_another(place: Path) -> Iterator[None]:
        monkeypatch.setattr(streaming, "exclusive", exclusive)
        run(tiny_classifier, str(folder), out)
        with exclusive(place):
            yield

    monkeypatch.setattr(streaming, "exclusive", after_another)
    assert run(tiny_classifier, str(folder), out)[1] == []
    assert len(lines(out)) == 1


def test_a_replaced_image_is_explained_and_the_previous_result_kept(
    tiny_classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_photographs(folder, ["1.jpg", "2.jpg"], (20, 20))
    run(tiny_classifier, str(folder), out)
    first = (out / "1.npz").read_bytes()
    write_photographs(folder, ["1.jpg"], (20, 20), seed=9)
    _, explained = run(tiny_classifier, str(folder), out)
    assert explained == [str(folder / "1.jpg")]
    assert "1 image has changed since the last explanation, which is kept" in capsys.readouterr().out
    assert (out / "1.npz").read_bytes() == first
    assert [line["stem"] for line in lines(out)] == ["1", "2", "1_2"]
    assert run(tiny_classifier, str(folder), out)[1] == []


def test_an_image_that_was_only_touched_is_not_explained_again(tiny_classifier: Classifier, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_photographs(folder, ["1.jpg", "2.jpg"], (20, 20))
    run(tiny_classifier, str(folder), out)
    os.utime(folder / "1.jpg", (1, 1))
    assert run(tiny_classifier, str(folder), out)[1] == []


def test_known_files_are_not_read_and_others_are_read_once(
    tiny_classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_photographs(folder, ["1.jpg", "2.jpg"], (20, 20))
    opened: list[str] = []
    open_path = Path.open

    def spy(self: Path, *args: object, **options: object) -> object:
        opened.append(self.name)
        return open_path(self, *args, **options)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(Path, "open", spy)
    run(tiny_classifier, str(folder), out)
    assert sorted(name for name in opened if name.endswith(".jpg")) == ["1.jpg", "2.jpg"]
    opened.clear()
    run(tiny_classifier, str(folder), out)
    assert not [name for name in opened if name.endswith(".jpg")]


@pytest.mark.parametrize("save", ["pictures", "maps"])
def test_samples_of_shards_are_known_by_path_and_content(
    tiny_classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str
) -> None:
    out = tmp_path / "out"
    for folder, colours in (("d1", ("red", "blue")), ("d2", ("green", "blue"))):
        (tmp_path / folder).mkdir()
        members = ((f"{name}.jpg", jpeg(colour)) for name, colour in zip("ab", colours, strict=True))
        write_tar(tmp_path / folder / "s.tar", members)
        monkeypatch.chdir(tmp_path / folder)
        assert run(tiny_classifier, "s.tar", out, save)[1] == ["s.tar/a.jpg", "s.tar/b.jpg"]
        assert run(tiny_classifier, "s.tar", out, save)[1] == []
    write_tar(tmp_path / "d2/s.tar", [("a.jpg", jpeg("white")), ("b.jpg", jpeg("blue"))])
    assert run(tiny_classifier, "s.tar", out, save)[1] == ["s.tar/a.jpg"]
    if save == "pictures":
        assert len(list(out.rglob("*.npz"))) == 5


def test_records_of_earlier_releases_go_by_their_path(tiny_classifier: Classifier, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_photographs(folder, ["1.jpg", "2.jpg"], (20, 20))
    run(tiny_classifier, str(folder), out)
    old = [{key: value for key, value in line.items() if key not in ("source", "stem")} for line in lines(out)]
    (out / "explanations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert run(tiny_classifier, str(folder), out)[1] == []


def test_two_samples_with_one_key_have_two_results(tiny_classifier: Classifier, tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.jpg", jpeg()), ("b.jpg", jpeg()), ("a.png", jpeg("blue"))])
    run(tiny_classifier, str(tmp_path / "s.tar"), tmp_path / "out")
    assert [line["stem"] for line in lines(tmp_path / "out")] == ["s/a", "s/b", "s/a_2"]


def test_a_key_cannot_leave_the_folder_of_the_results(tiny_classifier: Classifier, tmp_path: Path) -> None:
    names = ("../../up.jpg", "/root.jpg", "a/../../b.jpg", "c\\..\\d.jpg", f"{'x' * 240}.jpg", "./e//f.jpg")
    write_tar(tmp_path / "s.tar", ((name, jpeg()) for name in names))
    out = tmp_path / "deep/er/out"
    done, _ = run(tiny_classifier, str(tmp_path / "s.tar"), out)
    assert done.count == len(names)
    outside = [file for file in tmp_path.rglob("*.npz") if out not in file.parents]
    assert not outside
    assert len(list(out.rglob("*.npz"))) == len(names)


def test_fingerprints_describe_what_was_decoded(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["1.jpg"], (20, 20))
    batches = ImageBatches([tmp_path / "1.jpg"], 8, 1)
    list(batches)
    (image,) = batches.fingerprints.values()
    assert image.path == str(tmp_path / "1.jpg")
    assert image.bytes == (tmp_path / "1.jpg").stat().st_size
    shutil.copy(tmp_path / "1.jpg", tmp_path / "2.jpg")
    again = ImageBatches([tmp_path / "2.jpg"], 8, 1)
    list(again)
    assert next(iter(again.fingerprints.values())).sha256 == image.sha256
