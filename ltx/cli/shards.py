"""`ltx shards`: pack image files into webdataset shards."""

from __future__ import annotations

from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig


def make_shards(config: MakeConfig) -> None:
    """Write the shards and their manifest.

    Raises:
        InputError: see `ltx.data.shards.making.make`.
    """
    make(config)
