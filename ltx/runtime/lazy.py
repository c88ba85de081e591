"""torch, imported on first use.

`ltx COMMAND --help` prints the settings of every layer, and importing torch takes seconds. Modules that declare
settings take torch from here; every other module imports it directly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
else:

    class _Lazy:
        """Proxy that imports a module when one of its attributes is first read."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")

__all__ = ["F", "torch"]
