"""Files that an explanation writes, their names, and their completeness after a kill."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ltx.results.explanation import Explanation
from ltx.results.pictures import overlay, overlay_grid
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import finished, result_stems


def explanation(count: int = 2, masked: bool = True, **changes: Any) -> Explanation:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(count, 1, 12, 16, generator=generator)
    chances = torch.tensor([0.75, 0.5, 0.25, 0.125])[:count]
    settings: dict[str, Any] = {
        "images": torch.rand(count, 3, 12, 16, generator=generator),
        "maps": mask,
        "mask": mask if masked else None,
        "targets": torch.arange(count) + 280,
        "labels": ["tabby $cat$", "tiger cat", "lynx", "fox"][:count],
        "probability": chances,
        "probability_kept": chances / 2 if masked else None,
        "probability_removed": chances / 4 if masked else None,
        "method": "ltx",
        "steps": 25,
        "seconds": 0.5,
    }
    return Explanation(**(settings | changes))


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "explanations.jsonl").read_text(encoding="utf-8").splitlines()]


def test_files_contain_the_exact_pixels_map_and_mask(tmp_path: Path) -> None:
    result = explanation(maps=torch.randn(2, 1, 12, 16), names=["in/a.jpg", "in/b.png"])
    written = result.save(tmp_path)
    assert written == [tmp_path / name for name in ("a.png", "a.npz", "b.png", "b.npz")]
    for index, stem in enumerate("ab"):
        with np.load(tmp_path / f"{stem}.npz") as stored:
            assert sorted(stored) == ["image", "map", "mask"]
            assert {str(stored[key].dtype) for key in ("map", "mask")} == {"float32"}
            assert np.array_equal(stored["map"], result.maps[index, 0].numpy())
            assert np.array_equal(stored["mask"], result.mask[index, 0].numpy())
            pixels = (result.images[index] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            assert np.array_equal(stored["image"], pixels)
        with Image.open(tmp_path / f"{stem}.png") as picture:
            assert picture.width > 2 * picture.height


def test_saving_again_replaces_nothing(tmp_path: Path) -> None:
    first, second = explanation(), explanation(maps=torch.zeros(2, 1, 12, 16))
    first.save(tmp_path)
    assert [path.name for path in second.save(tmp_path)] == [
        f"image_{stem}.{end}" for stem in ("000_2", "001_2") for end in ("png", "npz")
    ]
    assert [line["image"] for line in lines(tmp_path)] == ["image_000", "image_001", "image_000_2", "image_001_2"]
    with np.load(tmp_path / "image_000.npz") as stored:
        assert np.array_equal(stored["map"], first.maps[0, 0].numpy())


def test_numbers_of_saved_results_avoid_the_other_images(tmp_path: Path) -> None:
    for names, stems in (
        (["cat.jpg", "dog.jpg"], ["cat", "dog"]),
        (["cat.jpg", "cat_2.jpg"], ["cat_3", "cat_2"]),
        (["cat_2.jpg", "cat.jpg"], ["cat_2_2", "cat_4"]),
    ):
        pictures = explanation(names=names).save(tmp_path)[::2]
        assert [picture.stem for picture in pictures] == stems


@pytest.mark.parametrize("stems", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_a_wrong_number_of_stems_writes_nothing(tmp_path: Path, stems: list[str]) -> None:
    with pytest.raises(InputError, match="for 2 images; give one for each, no two the same"):
        explanation().save(tmp_path / "out", stems)
    assert not (tmp_path / "out").exists()


def test_the_record_has_the_documented_keys(tmp_path: Path) -> None:
    result = explanation(names=["in/a.jpg", "in/é.png"])
    result.save(tmp_path)
    assert lines(tmp_path)[1] == {
        "image": "in/é.png",
        "target": 281,
        "label": "tiger cat",
        "probability": 0.5,
        "probability_kept": 0.25,
        "probability_removed": 0.125,
        "mask_mean": pytest.approx(float(result.mask[1].mean())),
        "method": "ltx",
        "steps": 25,
        "seconds": 0.5,
        "stem": "é",
    }
    explanation(selected_by="positive").save(tmp_path / "chosen")
    assert lines(tmp_path / "chosen")[0]["selected_by"] == "positive"


def test_the_numbers_of_a_missing_mask_are_null(tmp_path: Path) -> None:
    explanation(masked=False, maps=torch.zeros(2, 1, 12, 16)).save(tmp_path)
    line = lines(tmp_path)[0]
    assert [line[key] for key in ("probability_kept", "probability_removed", "mask_mean")] == [None] * 3
    with np.load(tmp_path / "image_000.npz") as stored:
        assert sorted(stored) == ["image", "map"]


def test_equal_explanations_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        explanation().save(tmp_path / name)
    for file in ("image_000.png", "image_000.npz", "explanations.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "root", "stems"),
    [
        (["in/a/x.jpg", "in/b/x.jpg", "in/y.jpg"], "in", ["a/x", "b/x", "y"]),
        (["in/a/x.jpg", "in/b/x.jpg"], None, ["a/x", "b/x"]),
        (["in/a/x.jpg"], "in", ["a/x"]),
        (["in/a/x.jpg"], None, ["x"]),
        (["in/x.jpg", "in/x.png", "in/y.png"], "in", ["x.jpg", "x.png", "y"]),
        (["in/x.jpg", "in/x.png", "in/x.jpg.png"], "in", ["x.jpg", "x.png", "x.jpg_2"]),
        (["in/x.jpg", "in/x.jpg"], "in", ["x.jpg", "x.jpg_2"]),
        (["image_000", "image_001"], None, ["image_000", "image_001"]),
        (["v1.2", "v1.3"], None, ["v1.2", "v1.3"]),
        (["../up/x.jpg"], "in", ["x"]),
    ],
)
def test_stems_keep_folders_and_never_collide(names: list[str], root: str | None, stems: list[str]) -> None:
    found = result_stems(names, root)
    assert found == stems
    assert len(set(found)) == len(names)


def test_stems_avoid_the_results_of_other_images() -> None:
    others = ["old/deep/cat.jpg", "old/dog.png"]
    names = ["in/cat.png", "in/deep/cat.jpg", "in/dog.png.jpg", "in/owl.jpg"]
    found = result_stems(names, "in", others)
    assert found == result_stems(names, "in", others[::-1])  # independent of the order of the others
    assert len(set(found)) == 4
    assert found[3] == "owl"
    for stem, wanted in zip(found, ("cat_", "deep/cat_", "dog.png_"), strict=False):
        assert stem.startswith(wanted)


def test_the_sweep_of_one_image_does_not_collide_with_another_image() -> None:
    plain, looks_like_a_sweep = result_stems(["in/x.jpg", "in/x.areas.png"], "in")
    assert plain == "x"
    assert looks_like_a_sweep.startswith("x.areas_")


def test_files_are_written_at_their_stems(tmp_path: Path) -> None:
    names = ["in/a/x.jpg", "in/b/x.jpg"]
    explanation(names=names).save(tmp_path, result_stems(names, "in"))
    assert (tmp_path / "a/x.png").is_file()
    assert (tmp_path / "b/x.npz").is_file()
    assert finished(tmp_path) == set(names)


def test_a_file_name_that_is_not_valid_utf8_is_preserved(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    explanation(names=[name, "ü.jpg"]).save(tmp_path)
    assert set(finished(tmp_path)) == {name, "ü.jpg"}
    assert "ü.jpg" in (tmp_path / "explanations.jsonl").read_text(encoding="utf-8")


# -- interruption --------------------------------------------------------------------------------------------------


def test_long_names_are_cut_to_valid_file_names(tmp_path: Path) -> None:
    names = [f"photos/{'ä' * 120}{end}.jpg" for end in ("a", "b")]
    stems = result_stems(names, "photos")
    assert len(set(stems)) == 2
    assert all(stem.startswith("ä" * 100) for stem in stems)
    for stem in stems:
        (tmp_path / f"{stem}_12.areas.png").touch()
    assert stems == [*result_stems(names[:1], "photos"), *result_stems(names[1:], "photos")]


def test_finished_removes_an_incomplete_last_line(tmp_path: Path) -> None:
    assert finished(tmp_path) == set()
    explanation(names=["a.jpg", "b.jpg"]).save(tmp_path)
    record = tmp_path / "explanations.jsonl"
    whole = record.read_bytes()
    for length in (len(whole) - 1, len(whole) - 40):
        record.write_bytes(whole[:length])
        assert set(finished(tmp_path)) == {"a.jpg"}
        assert record.read_bytes() == whole[: whole.index(b"\n") + 1]
    record.write_bytes(b'{"image": "' + b"x" * 9000)
    explanation(names=["c.jpg", "d.jpg"]).save(tmp_path)  # resumes after an incomplete line without calling finished()
    assert set(finished(tmp_path)) == {"c.jpg", "d.jpg"}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    explanation().save(tmp_path)
    record = tmp_path / "explanations.jsonl"
    record.write_text("{torn\n" + record.read_text())
    with pytest.raises(InputError, match=r"explanations\.jsonl, line 1"):
        finished(tmp_path)


@pytest.mark.parametrize("writer", ["numpy.savez_compressed", "matplotlib.figure.Figure.savefig"])
def test_a_process_killed_while_writing_leaves_no_partial_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    names = ["a.jpg", "b.jpg"]
    whole = tmp_path / "whole"
    explanation(names=names).save(whole)
    calls = 0
    module, _, function = writer.rpartition(".")
    write = getattr(np, function) if module == "numpy" else __import__("matplotlib.figure").figure.Figure.savefig

    def torn(*args: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            file = args[0] if module == "numpy" else args[1]
            file.write(b"half")
            raise KeyboardInterrupt
        write(*args, **options)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(writer, torn)
        with pytest.raises(KeyboardInterrupt):
            explanation(names=names).save(out)
    assert set(finished(out)) == {"a.jpg"}
    assert {file.name for file in out.iterdir() if not file.name.startswith(".")} <= {
        "a.png", "a.npz", "b.npz", "explanations.jsonl"
    }  # fmt: skip
    for file in out.glob("[ab].*"):
        assert file.read_bytes() == (whole / file.name).read_bytes()
    rest = explanation(1, names=["b.jpg"])
    rest.save(out)
    assert set(finished(out)) == set(names)


# -- pictures ------------------------------------------------------------------------------------------------------


def test_overlay_keeps_colours_and_darkens_removed_pixels() -> None:
    image = np.array([[[200, 100, 50], [200, 100, 50]]], np.uint8)
    shown = overlay(image, np.array([[1.0, 0.0]]))
    grey = round(0.25 * (0.299 * 200 + 0.587 * 100 + 0.114 * 50))
    assert shown.tolist() == [[[200, 100, 50], [grey] * 3]]
    # half of each colour and half of the dark grey, 31.1
    assert overlay(image, np.array([[0.5, 0.5]]))[0, 0].tolist() == [
        116,
        66,
        41,
    ]


def test_the_title_has_the_class_and_three_probabilities() -> None:
    figure = explanation(selected_by="positive").plot(0)
    text = " ".join(part.get_text() for part in figure.texts)
    for part in ("tabby $cat$", "whole 0.750", "kept 0.375", "removed 0.188", "25 steps", "selected by positive"):
        assert part in text, text
    bare = explanation(masked=False, maps=torch.randn(2, 1, 12, 16)).plot(1)
    assert "kept" not in " ".join(part.get_text() for part in bare.texts)


def test_panels_show_image_map_with_colour_bar_and_overlay() -> None:
    result = explanation()
    figure = result.plot(1)
    image, shown, over = (axis.images[0] for axis in (figure.axes[0], figure.axes[1], figure.axes[2]))
    arrays = result.arrays(1)
    assert np.array_equal(image.get_array(), arrays["image"])
    assert np.array_equal(shown.get_array(), arrays["map"])
    assert shown.get_clim() == (0, 1)
    assert np.array_equal(over.get_array(), overlay(arrays["image"], arrays["mask"]))
    maps = torch.linspace(-3, 5, 192).reshape(1, 1, 12, 16)
    free = explanation(1, masked=False, maps=maps).plot(0)
    assert free.axes[1].images[0].get_clim() == (-3, 5)
    explanation(1, masked=False, maps=torch.zeros(1, 1, 12, 16)).plot(0)  # a constant map has no range


def test_plotting_keeps_no_figure_alive() -> None:
    import matplotlib.pyplot

    explanation().plot(0)
    assert matplotlib.pyplot.get_fignums() == []


def test_a_grid_repeats_the_picture_of_a_single_pair() -> None:
    mask = torch.rand(3, 1, 16, 16)
    result = explanation(3, images=torch.rand(3, 3, 16, 16), maps=mask, mask=mask)
    grid = overlay_grid(result.images, result.maps, result.labels)
    one = overlay_grid(result.images[:1], result.maps[:1], result.labels[:1])
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * one.shape[0], 2 * one.shape[1], 3)
    unlike = np.abs(grid[: one.shape[0], : one.shape[1]].astype(int) - one).max(2) > 2
    assert unlike.mean() < 0.1  # equal except for edges and letters that fall between pixels


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"maps": torch.zeros(2, 12, 16)}, r"maps is float32 \[2, 12, 16\]; give float \[2, 1, 12, 16\]"),
        ({"mask": torch.zeros(1, 1, 12, 16)}, "mask is float32"),
        ({"labels": ["cat"]}, "1 labels for 2 images"),
    ],
)
def test_inconsistent_shapes_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        explanation(**changes)


def test_a_notebook_displays_the_figures() -> None:
    """pyplot does not know the figures, so IPython finds no other way to draw them."""
    figure = explanation().plot(0)
    assert figure._repr_png_().startswith(b"\x89PNG")
