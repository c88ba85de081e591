"""The settings of `ltx export`."""

from __future__ import annotations

from dataclasses import dataclass

from ltx.config.options import option
from ltx.finetuning.settings import LoadedExplainerConfig


@dataclass
class ExportConfig(LoadedExplainerConfig):
    """Which explainer is exported, and to what."""

    out: str = option(
        "explainer.onnx",
        help="FILE.onnx, FILE.pt2 (torch.export), or FOLDER/ for a static page that runs in a browser",
        path=True,
    )
    pixels: str = option(
        "uint8", help="images that the graph takes: uint8 = 0 to 255, float = 0 to 1", choices=["uint8", "float"]
    )
    weights: str | None = option(
        None,
        help="how weights are stored: fp32, fp16, or int16 = integers, as small as fp16 and closer, without WebGPU; "
        "null = fp32 in files; in pages fp16, or int16 if fp16 answers differently. Computation is in fp32",
        choices=["fp32", "fp16", "int16", None],
    )
    runtime: str | None = option(
        None, help="FILE.tgz of the npm package onnxruntime-web, for pages; null = downloaded with npm"
    )
