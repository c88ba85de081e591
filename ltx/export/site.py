"""A static page that explains photographs in the visitor's browser."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from ltx.data.finding import find_images
from ltx.data.reading import read_image
from ltx.export.exporting import Checked, metadata, write_checked, write_onnx
from ltx.export.graph import ExplainerGraph
from ltx.export.npm_package import PACKAGE, VERSION, package_file, read_members
from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError

PAGE = Path(__file__).parent / "page"
MODEL = "explainer.onnx"
RUNTIME = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""Script, loader and compiled code of each backend; a browser loads one of them.

WebGPU's has no conversion of 16-bit integers: it is left out of pages whose weights are stored in them.
"""

EXAMPLE = "coffee.png"


def write_site(graph: ExplainerGraph, folder: Path, runtime: str | None, check: Callable[[Path], Checked]) -> Checked:
    """Write the page, the graph and the runtime.

    Args:
        graph: what the page runs.
        folder: where the page goes; files of an earlier export are replaced.
        runtime: the npm package as a file; None = see `package_file`.
        check: called with the ONNX file before the page is written; its result is returned.

    Raises:
        InputError: the classifier's images are not RGB; see also `package_file` and `write_onnx`.
    """
    channels = graph.explainer.classifier.channels
    if channels != 3:
        raise InputError(
            f"out={folder}: the page shows RGB photographs and the classifier takes {channels} channels; "
            "export to FILE.onnx"
        )
    package = package_file(runtime)
    folder.mkdir(parents=True, exist_ok=True)
    checked = write_checked(folder / MODEL, partial(write_onnx, graph), check)
    (folder / "runtime").mkdir(exist_ok=True)
    backends = {kind: files for kind, files in RUNTIME.items() if kind == "wasm" or graph.weights != "int16"}
    names = [name for files in backends.values() for name in files]
    for name, content in read_members(package, names).items():
        if name.endswith(".wasm"):  # a quarter of the size; not every static server compresses
            write_atomically(folder / "runtime" / f"{name}.gz", gzip.compress(content, mtime=0))
        else:
            write_atomically(folder / "runtime" / name, content)
    about = metadata(graph)
    for key in ("class_names", "input_size", "inputs"):
        about[key] = json.loads(about[key])
    about |= {"model": MODEL, "runtime": f"{PACKAGE} {VERSION}", "backends": backends}  # type: ignore[dict-item]
    write_atomically(folder / "about.json", json.dumps(about).encode())
    write_atomically(folder / "example.jpg", _example())
    for file in sorted(PAGE.iterdir()):
        write_atomically(folder / file.name, file.read_bytes())
    return checked


def _example() -> bytes:
    file = next(file for file in find_images("scikit-image") if file.name == EXAMPLE)
    picture = read_image(file)
    picture.thumbnail((480, 480), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()
