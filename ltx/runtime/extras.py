"""Optional dependencies: packages of an extra, which a plain installation does not have."""

from __future__ import annotations

import importlib.util

from ltx.runtime.errors import InputError


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra can be imported, without importing them.

    Raises:
        InputError: one is missing; the message names the extra.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} is not installed; it belongs to the extra [{extra}]: pip install 'ltx[{extra}]'"
        )
