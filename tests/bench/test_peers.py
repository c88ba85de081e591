"""`ltx bench peers` with a small model: agreement with each peer, and missing packages."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ltx import InputError
from ltx.bench.peers import run
from ltx.bench.peers.run import measure
from ltx.bench.settings import PEER_NAMES, PeersBench
from ltx.config.command_line import parse

TINY = ["input_size=96", "device=cpu", "repeats=1", "count=2"]


def lines(out: Path, *words: str) -> dict[str, dict[str, Any]]:
    measure(parse(PeersBench, [*TINY, f"out={out}", *words], "bench", ""))
    written = json.loads((out / "peers.json").read_text())
    return {line["what"].partition(",")[0]: line for line in written["lines"]}


def test_every_peer_has_a_name() -> None:
    assert tuple(peer.name for peer in run.PEERS) == PEER_NAMES


def test_plain_loops_give_the_same_maps(tmp_path: Path) -> None:
    names = "peers=[extremal_perturbation,finetuning,iia]"
    results = lines(tmp_path, "models=[resnet10t]", names)
    for name in ("extremal_perturbation", "iia"):
        error = re.search(r"largest difference ([\d.e+-]+) of the range", results[name]["result"])
        assert error is not None
        assert float(error[1]) < 1e-3, name
        assert results[name]["values"]["ratio"] > 0
    assert "median correlation of the maps" in results["finetuning"]["result"]
    # Both sides classify one masked image per step; ours also the full image, for the explanation.
    assert results["finetuning"]["values"]["passes"] == {"ours": 4, "theirs": 3}
    assert results["iia"]["values"]["passes"]["theirs"] == 36
    assert results["iia"]["values"]["passes"]["ours"] <= 7, "the points of the path, and one pass to find the layers"


@pytest.mark.parametrize("model", ["resnet10t", "test_vit"])
def test_class_activation_maps_agree_with_pytorch_grad_cam(tmp_path: Path, model: str) -> None:
    pytest.importorskip("pytorch_grad_cam")
    size = "input_size=160" if model == "test_vit" else "input_size=96"
    results = lines(tmp_path, f"models=[{model}]", size, "peers=[gradcam,gradcam++,layercam]")
    for name in ("gradcam", "layercam"):
        correlation = re.search(r"median correlation of the maps ([\d.-]+)", results[name]["result"])
        assert correlation is not None, results[name]["result"]
        assert float(correlation[1]) > 0.95, name


def test_captum_gives_the_same_maps(tmp_path: Path) -> None:
    for name, line in lines(tmp_path, "models=[resnet10t]", "peers=[integrated_gradients,occlusion]").items():
        error = re.search(r"largest difference ([\d.e+-]+) of the range", line["result"])
        assert error is not None, line["result"]
        assert float(error[1]) < 1e-3, name


def test_a_missing_package_is_one_line_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] in ("pytorch_grad_cam", "quantus"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name, package)  # torch and others are imported lazily by the same function

    monkeypatch.setattr(importlib, "import_module", missing)
    results = lines(tmp_path, "models=[resnet10t]", "peers=[gradcam,pixel_flipping]")
    assert results["gradcam"]["result"] == "left out: install the package grad-cam (pip install ltx[bench])"
    assert "install the package quantus" in results["pixel_flipping"]["result"]


def test_an_unknown_peer_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean gradcam"):
        lines(tmp_path, "peers=[grdcam]")
