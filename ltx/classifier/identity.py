"""Identity of a classifier: a hash of its architecture, weights and settings, and what its stored results depend on."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.own_modules import FunctionModule

if TYPE_CHECKING:
    from ltx.classifier.classifier import Classifier

LIBRARIES = ("builtins", "ltx", "timm", "torch", "torchvision", "transformers")
"""Packages whose code is not part of the key of stored results."""


def fingerprint(classifier: Classifier) -> str:
    """A short hash of architecture, weights, head, normalisation, and the layers and forward pass that were set.

    A timm name without options determines the architecture; for other models the module's structure does. What a plain
    function or a `forward` of the caller computes is only visible in its logits, so a few of those are hashed as well.
    """
    setup, model = classifier.setup, classifier.model
    named = classifier.by_timm_name and not setup.request.options
    mean, std = classifier.normalisation
    architecture = classifier.name if named else structure(model)
    digest = hashlib.sha256(f"{architecture}|{classifier.head}|{mean.tolist()}|{std.tolist()}".encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    layers = [setup.layers.features, setup.layers.head, setup.layers.grid, setup.layers.prefix_tokens]
    if any(value is not None for value in layers):
        digest.update(str(layers).encode())
    if setup.forward is not None or isinstance(model, FunctionModule):
        digest.update(str(_some_logits(classifier)).encode())
    return digest.hexdigest()[:16]


def structure(model: nn.Module) -> str:
    """The submodules with their classes and settings, one per line; the class of the module itself is left out."""
    return "\n".join(
        f"{name} {type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules() if name
    )


def results_key(classifier: Classifier) -> list[Any]:
    """What stored results of a classifier depend on: fingerprint, precision, input size, options and code of its own.

    Options and code are there only if there are any: an attribute that a `package.module:function` sets, or the
    `forward` of a class outside the libraries, changes the results but not the fingerprint.
    """
    key: list[Any] = [classifier.fingerprint(), classifier.precision, list(classifier.input_size)]
    options = classifier.setup.request.options
    code = sorted(set(_own_code(classifier)))
    return key + ([repr(sorted(options.items()))] if options else []) + code


def pictures(count: int, classifier: Classifier) -> Tensor:
    """Fixed images of coloured blotches, `[count, C, H, W]`."""
    blotches = torch.rand(count, classifier.channels, 7, 7, generator=torch.Generator().manual_seed(0))
    return F.interpolate(blotches, classifier.input_size, mode="bicubic").clamp(0, 1).to(classifier.device)


@torch.no_grad()
def _some_logits(classifier: Classifier) -> list[str]:
    """Eight logits of each of two images, to two digits, so that rounding seldom changes them."""
    mean, std = classifier.normalisation
    with torch.compiler.set_stance("force_eager"):
        logits = classifier.interface.logits((pictures(2, classifier) - mean) / std)
    return [f"{value:.1e}" for value in logits[:, :8].flatten().tolist()]


def _own_code(classifier: Classifier) -> Iterator[str]:
    """Hashes of the sources of the classes and functions in a classifier that belong to no library."""
    for module in classifier.model.modules():
        for part in (*type(module).__mro__, getattr(module, "function", None)):
            if part is not None and not isinstance(part, nn.Module):
                yield from _source(part)
    if classifier.setup.forward is not None:
        yield from _source(classifier.setup.forward)


def _source(part: Any) -> Iterator[str]:
    if (getattr(part, "__module__", None) or "builtins").partition(".")[0] in LIBRARIES:
        return
    try:
        yield hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16]
    except (OSError, TypeError):  # typed at a prompt, or an object with __call__
        yield getattr(part, "__qualname__", type(part).__qualname__)
