from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ltx import InputError
from ltx.classifier.choices import HeadName
from ltx.classifier.heads import probabilities
from ltx.export import npm_package, site
from ltx.export.graph import ExplainerGraph, Weights
from ltx.export.site import PAGE, RUNTIME, write_site
from tests.export.test_graph import small
from tests.export.test_npm_package import write_package


@pytest.mark.parametrize(("weights", "backends"), [("fp16", ["wasm", "webgpu"]), ("int16", ["wasm"])])
def test_a_page_has_all_that_it_loads(
    weights: Weights, backends: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for files in RUNTIME.values() for name in files]
    package = write_package(tmp_path / "runtime.tgz", {name: name.encode() * 99 for name in names})
    monkeypatch.setattr(npm_package, "INTEGRITY", npm_package._digest(package))
    monkeypatch.setattr(site, "write_onnx", lambda graph, file: file.write_bytes(b"graph"))
    folder = tmp_path / "page"
    assert (
        write_site(ExplainerGraph(small(), weights=weights), folder, str(package), lambda file: file.read_bytes())
        == b"graph"
    )
    about = json.loads((folder / "about.json").read_text())
    assert about["inputs"] == ["image", "target"]
    assert about["input_size"] == [64, 64]
    assert (folder / about["model"]).read_bytes() == b"graph"
    assert list(about["backends"]) == backends
    for script, loader, code in about["backends"].values():
        assert (folder / "runtime" / script).is_file()
        assert (folder / "runtime" / loader).is_file()
        assert gzip.decompress((folder / "runtime" / f"{code}.gz").read_bytes()) == code.encode() * 99
    assert (folder / "example.jpg").stat().st_size < 100_000


def test_a_page_for_other_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the page shows RGB photographs .* 1 channels; export to FILE\.onnx"):
        write_site(ExplainerGraph(small(channels=1)), tmp_path / "page", None, lambda file: None)
    assert not (tmp_path / "page").exists()


def test_the_page_requests_no_other_server() -> None:
    for file in PAGE.iterdir():
        text = file.read_text()
        assert "http://" not in text
        assert "https://" not in text
    assert "connect-src 'self' blob:" in (PAGE / "index.html").read_text()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("head", ["softmax", "sigmoid", "binary"])
def test_the_page_computes_the_probabilities_of_every_head(head: HeadName) -> None:
    logits = torch.tensor([-1.5, 1.5])
    function = re.search(r"^function probabilities.*?^}", (PAGE / "page.js").read_text(), re.MULTILINE | re.DOTALL)
    assert function is not None
    about = json.dumps({"head": head})
    script = f"const about = {about}; {function[0]}; console.log(JSON.stringify(probabilities({logits.tolist()})))"
    run = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == pytest.approx(probabilities(head, logits).tolist())
