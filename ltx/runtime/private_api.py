"""Private and undocumented APIs of dependencies, under plain names.

Each is used only through this module and has a test in `tests/runtime/test_private_api.py` that fails when the API
moves. The dependency is imported when the function is called, so that importing this module is cheap.

| dependency | API | upper bound |
|---|---|---|
| torch | `torch.utils._pytree` | none: the test is the guard |
| torch | the code of `F.multi_head_attention_forward` | none: the test is the guard |
| torch | `OptimizedModule._orig_mod` of `torch.compile` | none: the test is the guard |
| lightning | `strategies.launchers._SubprocessScriptLauncher` | `<2.7` |
| torchmetrics | `Metric._filter_kwargs` | `<2` |
| webdataset | `shardlists.expand_urls`, `tariterators.base_plus_ext` | `<1.1` |
| Python | `tarfile.TarFile.members`, `.offset`, `EOFHeaderError`, `EmptyHeaderError` | none: the test is the guard |
| segmentation-models-pytorch | `decoders.unet.decoder.UnetDecoder` | `<0.7` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tarfile

    from torch import nn
    from torchmetrics import Metric


def tree_map(function: Callable[..., Any], tree: Any) -> Any:
    """Apply `function` to every leaf of nested tuples, lists, dicts and named tuples; returns the same nesting."""
    from torch.utils._pytree import tree_map as torch_tree_map

    return torch_tree_map(function, tree)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of nested tuples, lists, dicts and named tuples, in order."""
    from torch.utils._pytree import tree_leaves as torch_tree_leaves

    return torch_tree_leaves(tree)


def multi_head_attention_steps(*args: Any, **kwargs: Any) -> Any:
    """`F.multi_head_attention_forward`, whose operations a `TorchFunctionMode` sees one by one.

    The original hands the whole call to an active mode. Here its code runs with that check disabled.
    """
    from types import FunctionType

    import torch.nn.functional as F

    original = F.multi_head_attention_forward
    names = {**original.__globals__, "has_torch_function": lambda _: False}
    steps = FunctionType(original.__code__, names, original.__name__, original.__defaults__)
    steps.__kwdefaults__ = original.__kwdefaults__
    return steps(*args, **kwargs)


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the module itself."""
    original: nn.Module = getattr(module, "_orig_mod", module)
    return original


def kill_subprocesses(launcher: Any, signum: int) -> None:
    """Send a signal to the processes that Lightning's launcher of scripts started; no effect on other launchers."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signum)


def accepted_arguments(metric: Metric, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those keyword arguments that a torchmetrics metric's `update` accepts."""
    return metric._filter_kwargs(**arguments)


def expand_urls(urls: str) -> list[str]:
    """Expand webdataset's brace notation: `{00..02}.tar` gives three names."""
    from webdataset.shardlists import expand_urls as webdataset_expand_urls

    return list(webdataset_expand_urls(urls))


def split_member_name(name: str) -> tuple[str | None, str | None]:
    """Key and extension of a shard's member: `a/b.seg.png` is (`a/b`, `seg.png`); (None, None) without extension."""
    from webdataset.tariterators import base_plus_ext

    key, extension = base_plus_ext(name)
    return key, extension


def forget_members(archive: tarfile.TarFile) -> None:
    """Drop the headers that a tar file keeps of the members read so far, so that memory does not grow with them."""
    archive.members = []  # type: ignore[attr-defined]  # the attribute is not documented


def watched_headers() -> Any:
    """An argument `tarinfo` of `tarfile.open` for one file: its attribute `damaged_at` is where a damaged header is.

    `tarfile` takes a truncated or invalid header for the end of the file, unless it is the first.
    """
    import tarfile

    class WatchedHeader(tarfile.TarInfo):
        damaged_at: int | None = None

        @classmethod
        def fromtarfile(cls, archive: tarfile.TarFile) -> WatchedHeader:
            try:
                return super().fromtarfile(archive)
            except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]  # not documented
                raise
            except tarfile.HeaderError:
                cls.damaged_at = archive.offset
                raise

    return WatchedHeader


def unet_decoder(encoder_channels: list[int], decoder_channels: list[int], **options: Any) -> nn.Module:
    """The decoder of segmentation-models-pytorch's U-Net.

    Args:
        encoder_channels: channels of the encoder's maps, the image first, shallow to deep.
        decoder_channels: channels after each decoder block.
        options: as `UnetDecoder` takes them (`n_blocks`, `use_norm`, …).
    """
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    decoder: nn.Module = UnetDecoder(encoder_channels, decoder_channels, **options)
    return decoder
