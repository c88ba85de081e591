"""`ltx shards`: pack image files into webdataset shards."""

from __future__ import annotations

from ltx.data.shards.making import pack
from ltx.data.shards.settings import MakeConfig
from ltx.runtime.errors import PartialFailureError
from ltx.runtime.exclusive_folder import exclusive


def make_shards(config: MakeConfig) -> None:
    """Write the shards and their manifest.

    Raises:
        InputError: see `ltx.data.shards.making.pack`.
        PartialFailureError: the manifest is written, but some sources could not be used.
    """
    with exclusive(config.out):
        failed = pack(config).failed
    if failed:
        raise PartialFailureError([reason for _, reason in failed])
