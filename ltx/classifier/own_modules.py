"""Modules that a caller passes as objects or that a command line names by import path."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltx.runtime.errors import InputError, first_line
from ltx.runtime.private_api import uncompiled

IMPORT_PATH = re.compile(r"(?!torchvision:|hf:|hf-hub:|hf_hub:|local-dir:|wandb:)[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class FunctionModule(nn.Module):
    """A plain function of images, or a scripted module, which has no hooks, as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def independent_copy(model: nn.Module | Callable[[Tensor], Any]) -> nn.Module:
    """A copy of the caller's model with float32 weights, so that the original keeps its mode, gradients and dtype.

    A compiled module, `DataParallel` and `AveragedModel` are unwrapped. A plain function becomes a module.

    Raises:
        InputError: the module cannot be copied.
    """
    module = uncompiled(model) if isinstance(model, nn.Module) else FunctionModule(model)
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while isinstance(module, wrappers):
        module = uncompiled(module.module)
    if isinstance(module, FunctionModule):
        return module
    try:
        with torch.no_grad():  # so that the copied parameters of scripted modules are leaves
            copied = copy.deepcopy(module)
    except Exception as error:  # a copy runs the module's own code
        raise InputError(
            f"{type(module).__name__} cannot be copied ({first_line(error)}); the classifier keeps a frozen copy, so "
            "give a module that copy.deepcopy accepts"
        ) from error
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in copied.state_dict().values()):
        copied = copied.float()
    return FunctionModule(copied) if isinstance(copied, torch.jit.ScriptModule) else copied


def is_import_path(name: str) -> bool:
    """Whether a classifier's name is an import path `package.module:function`."""
    return IMPORT_PATH.fullmatch(name) is not None


def import_module(path: str, options: Mapping[str, Any]) -> nn.Module:
    """Import and call the function `package.module:function(**options)`, which returns a module.

    The working directory is searched too, as in `python -m`. This runs the code of that package: a checkpoint alone
    never leads here, see `ltx.checkpoints.folder.load`.

    Raises:
        InputError: the import or the call fails, or returns something else.
    """
    package, _, attribute = path.partition(":")
    with _working_directory():
        try:
            function = getattr(importlib.import_module(package), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"classifier.name={path}: {first_line(error)}; give package.module:function, importable from here"
            ) from error
        if isinstance(function, nn.Module):
            model: Any = function
        elif not callable(function):
            raise InputError(f"classifier.name={path} is a {type(function).__name__}; give a function or a class")
        else:
            try:
                model = function(**options)
            except TypeError as error:
                given = ", ".join(options) or "none"
                raise InputError(
                    f"classifier.name={path} cannot be called with these classifier.options ({given}): "
                    f"{first_line(error)}"
                ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"classifier.name={path} returns a {type(model).__name__}; it must return an nn.Module")
    return model


@contextmanager
def _working_directory() -> Any:
    """The working directory is on the import path within the context."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
