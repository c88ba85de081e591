"""Graphs as files: ONNX, and the format of `torch.export`."""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ltx.export.graph import ExplainerGraph
from ltx.runtime.atomic_files import PARTIAL, atomic_write
from ltx.runtime.errors import InputError

LARGEST_BATCH = 4096
OPSET = 18

Checked = TypeVar("Checked")

Run = Callable[..., tuple[Tensor, Tensor]]
"""The inputs of the graph to its logits and mask."""


def traced(graph: ExplainerGraph) -> torch.export.ExportedProgram:
    """The graph with a dynamic batch.

    Raises:
        InputError: it depends on values of its inputs, or uses what cannot be traced.
    """
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    shapes = tuple({0: batch} for _ in graph.inputs)
    with _explained(graph, "torch.export"), _quiet():
        return torch.export.export(graph, graph.example(), dynamic_shapes=shapes)


def write_checked(file: Path, write: Callable[[Path], None], check: Callable[[Path], Checked]) -> Checked:
    """Write a file under a hidden name, check it, and rename it: a refused one leaves an earlier file as it is.

    Args:
        file: the destination; its folder exists.
        write: writes the given file.
        check: reads the given file and raises if it is not right; its result is returned.
    """
    with tempfile.TemporaryDirectory(prefix=".", suffix=PARTIAL, dir=file.parent) as folder:
        hidden = Path(folder) / file.name
        write(hidden)
        checked = check(hidden)
        os.replace(hidden, file)
    return checked


def write_onnx(graph: ExplainerGraph, file: Path) -> None:
    """Write an ONNX file, with its class names and sizes as metadata.

    Raises:
        InputError: see `traced`, or an operation that ONNX does not have.
    """
    program = traced(graph)
    with _explained(graph, "ONNX"), _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            # The exporter would fold the conversion of half precision, and store single precision again.
            optimize=graph.weights != "fp16",
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=["logits", "mask"],
        )
    assert converted is not None
    model = converted.model_proto
    _strip(model)
    for key, value in metadata(graph).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    with atomic_write(file) as stream:
        stream.write(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Remove what only debuggers read, the exporter's stack traces: a sixth of a small file."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")


def write_pt2(graph: ExplainerGraph, file: Path) -> None:
    """Write a file that `torch.export.load` reads; metadata are its extra file `ltx.json`.

    Raises:
        InputError: see `traced`.
    """
    buffer, program = io.BytesIO(), traced(graph)
    with _quiet():
        torch.export.save(program, buffer, extra_files={"ltx.json": json.dumps(metadata(graph))})
    with atomic_write(file) as stream:
        stream.write(buffer.getvalue())


def metadata(graph: ExplainerGraph) -> dict[str, str]:
    """What a program needs to use the graph."""
    classifier = graph.explainer.classifier
    height, width = classifier.input_size
    return {
        "classifier": classifier.name,
        "class_names": json.dumps([classifier.label(index) for index in range(classifier.num_classes)]),
        "head": classifier.head,
        "pixels": graph.pixels,
        "input_size": json.dumps([height, width]),
        "inputs": json.dumps(graph.inputs),
        "method": graph.explainer.method,
    }


def opened_onnx(file: Path, threads: int) -> Run:
    """The graph of an ONNX file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        arrays: dict[str, np.ndarray] = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        logits, mask = session.run(["logits", "mask"], arrays)
        return torch.from_numpy(logits), torch.from_numpy(mask)

    return run


def opened_pt2(file: Path) -> Run:
    """The graph of a `torch.export` file."""
    module = torch.export.load(file).module()

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits, mask = module(*inputs)
        return logits, mask

    return run


@contextmanager
def _explained(graph: ExplainerGraph, target: str) -> Iterator[None]:
    """Turns what an exporter raises into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # exporters raise whatever the traced code or their own passes raise
        cause: Any = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        network, name = type(graph.explainer).__name__, graph.explainer.classifier.name
        raise InputError(f"{network} of {name} cannot be exported to {target}: {reason[:300]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress lines and warnings of the exporters."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
