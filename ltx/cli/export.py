"""`ltx export`: an explainer as an ONNX file, a `torch.export` file, or a static page."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import torch

from ltx.checkpoints.folder import located
from ltx.checkpoints.loading import load
from ltx.explainers.mask_network import MaskNetwork
from ltx.export.comparing import Comparison, DifferentAnswersError, compare
from ltx.export.exporting import opened_onnx, opened_pt2, write_checked, write_onnx, write_pt2
from ltx.export.graph import ExplainerGraph, Pixels, Weights
from ltx.export.settings import ExportConfig
from ltx.export.site import write_site
from ltx.runtime.errors import InputError
from ltx.runtime.extras import require


def export(config: ExportConfig) -> None:
    """Export a checkpoint, compare the result with eager PyTorch, and print its size and speed.

    Raises:
        InputError: an unknown ending of `out`, a missing extra, an explainer that cannot be exported, or a graph whose
            answers differ from PyTorch's.
    """
    kind = "site" if config.out.endswith(("/", "\\")) or Path(config.out).is_dir() else Path(config.out).suffix
    if kind not in ("site", ".onnx", ".pt2"):
        raise InputError(f"out={config.out}; give FILE.onnx, FILE.pt2, or FOLDER/ with a slash for a page")
    if kind != ".pt2":
        require("export", "onnx", "onnxscript", "onnxruntime")
    if config.runtime is not None and kind != "site":
        raise InputError(f"runtime={config.runtime} is for pages, out=FOLDER/; leave it out")
    weights, comparison = _written(config, kind)
    out = Path(config.out)
    size = (
        sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if kind == "site" else out.stat().st_size
    )
    runner = "torch.export" if kind == ".pt2" else "onnxruntime"
    print(
        f"{out}: {size / 1e6:.1f} MB, weights stored in {weights}\n"
        f"one image on {torch.get_num_threads()} threads: {runner} {comparison.exported_ms:.1f} ms, "
        f"eager PyTorch {comparison.eager_ms:.1f} ms\n"
        f"largest difference from PyTorch: mask {comparison.mask:.1e}, probability {comparison.probability:.1e}, "
        f"logits {comparison.logits:.1e} of the largest"
    )
    if kind == "site":
        print(f"serve it: python -m http.server --directory {out} 8000")


def _written(config: ExportConfig, kind: str) -> tuple[Weights, Comparison]:
    """Write the file or the page; a page takes the first kind of small weights that answers as PyTorch does."""
    reference = _loaded(config)
    out = Path(config.out)
    choices: list[Weights] = ["fp16", "int16"] if kind == "site" else ["fp32"]
    if config.weights is not None:
        choices = [cast(Weights, config.weights)]
    for weights in choices:
        graph = ExplainerGraph(_loaded(config), cast(Pixels, config.pixels), weights)
        check = partial(_checked, graph=graph, reference=reference)
        try:
            if kind == "site":
                return weights, write_site(graph, out, config.runtime, check)
            out.parent.mkdir(parents=True, exist_ok=True)
            write = partial(write_onnx if kind == ".onnx" else write_pt2, graph)
            return weights, write_checked(out, write, check)
        except DifferentAnswersError:
            if weights == choices[-1]:
                raise
    raise AssertionError(choices)


def _loaded(config: ExportConfig) -> MaskNetwork:
    return load(located(config.checkpoint), trust=config.trust, **asdict(config.classifier))


def _checked(file: Path, graph: ExplainerGraph, reference: MaskNetwork) -> Comparison:
    """Compare a written file with eager PyTorch."""
    run = opened_pt2(file) if file.suffix == ".pt2" else opened_onnx(file, torch.get_num_threads())
    comparison = compare(run, graph, reference)
    comparison.check(graph.weights)
    return comparison
