"""Conditions of a benchmark: the machine and the versions of packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable

import torch


def machine(device: torch.device) -> dict[str, str]:
    """The device, the number of threads, and the versions of Python and PyTorch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}, {name}",
        "CPU": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "Python": platform.python_version(),
        **versions(["torch", "timm", "lightning"]),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package; `not installed` if it is missing."""
    result = {}
    for package in packages:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result
