from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier, InputError
from ltx.explainers.inr import INRExplainer
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.unet import UNetExplainer
from ltx.explainers.vit import ViTExplainer
from ltx.export.comparing import Comparison, compare, eager
from ltx.export.exporting import opened_onnx, opened_pt2, write_checked, write_onnx, write_pt2
from ltx.export.graph import ExplainerGraph
from tests.export.test_graph import images, small

pytest.importorskip("onnxscript", reason="the extra [export] is not installed")
pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")


def differs(file: Path, graph: ExplainerGraph, reference: MaskNetwork) -> float:
    """The largest difference of logits and masks, on batches of 1 and 5."""
    run = opened_pt2(file) if file.suffix == ".pt2" else opened_onnx(file, 1)
    largest = 0.0
    for count in (1, 5):
        targets = torch.arange(count) % 7 - 1
        answers = run(*graph.arguments(images(count), targets))
        expected = eager(reference, images(count), targets)
        largest = max([largest, *(float((a - b).abs().max()) for a, b in zip(answers, expected, strict=True))])
    return largest


def test_onnx_answers_any_batch_and_describes_itself(tmp_path: Path) -> None:
    import onnx

    graph = ExplainerGraph(small())
    write_onnx(graph, tmp_path / "a.onnx")
    assert differs(tmp_path / "a.onnx", graph, small()) < 1e-4
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["input_size"]) == [64, 64]
    assert len(json.loads(about["class_names"])) == 7
    assert not any(node.metadata_props for node in model.graph.node)


def test_a_torch_export_file_answers_any_batch(tmp_path: Path) -> None:
    graph = ExplainerGraph(small(), "float")
    write_pt2(graph, tmp_path / "a.pt2")
    assert differs(tmp_path / "a.pt2", graph, small()) < 1e-5
    extra = {"ltx.json": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert json.loads(extra["ltx.json"])["pixels"] == "float"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ViTExplainer, INRExplainer, UNetExplainer])
@pytest.mark.parametrize(("weights", "largest"), [("fp32", 1e-4), ("int16", 1e-2), ("fp16", 3e-2)])
def test_every_network_in_every_form(tmp_path: Path, kind: type[MaskNetwork], weights: str, largest: float) -> None:
    graph = ExplainerGraph(small(kind), weights=weights)  # type: ignore[arg-type]
    for file, write in ((tmp_path / "a.onnx", write_onnx), (tmp_path / "a.pt2", write_pt2)):
        write(graph, file)
        assert differs(file, graph, small(kind)) < largest


class Branching(nn.Module):
    """A classifier whose layers depend on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 3)

    def forward_intermediates(self, x: Tensor, indices: list[int] | None = None, **options: object) -> object:
        x = self.stem(x)
        if float(x.mean()) > 0:
            x = x.relu()
        return x, [x]

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_intermediates(x)[0])  # type: ignore[index]


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    classifier = Classifier(Branching(), input_size=16, num_classes=3)
    graph = ExplainerGraph(UNetExplainer(classifier, variant="released", conditioned=False))
    with pytest.raises(InputError, match=r"UNetExplainer of Branching cannot be exported to torch\.export: ") as error:
        write_onnx(graph, tmp_path / "a.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_answers_differently_is_refused() -> None:
    close = Comparison(mask=9e-5, probability=0.0, logits=0.0, exported_ms=1, eager_ms=1)
    close.check("fp32")
    with pytest.raises(InputError, match=r"differs from PyTorch by 2\.0e-02, above 0\.01; use weights=int16 or fp32"):
        Comparison(mask=0.02, probability=0.0, logits=0.0, exported_ms=1, eager_ms=1).check("fp16")
    with pytest.raises(InputError, match="differs"):
        Comparison(mask=float("nan"), probability=0.0, logits=0.0, exported_ms=1, eager_ms=1).check("fp32")


def test_an_explainer_whose_own_masks_are_not_finite_is_refused() -> None:
    reference = small()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.fill_(math.inf)
    graph = ExplainerGraph(small())
    with pytest.raises(InputError, match=r"the explainer's own masks .* are not finite; check the checkpoint"):
        compare(graph, graph, reference)


def test_a_refused_file_leaves_the_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(b"earlier")

    def refuse(written: Path) -> None:
        assert written.read_bytes() == b"new"
        assert file.read_bytes() == b"earlier"
        raise InputError("it differs")

    with pytest.raises(InputError, match="it differs"):
        write_checked(file, lambda path: path.write_bytes(b"new"), refuse)  # type: ignore[arg-type,return-value]
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert file.read_bytes() == b"earlier"
    assert write_checked(file, lambda path: path.write_bytes(b"new"), lambda path: path.suffix) == ".onnx"  # type: ignore[arg-type,return-value]
    assert file.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
