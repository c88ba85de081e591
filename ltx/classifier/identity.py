"""Identity of a classifier: a hash of its architecture and weights, and what its stored results depend on."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.own_modules import FunctionModule, is_import_path

if TYPE_CHECKING:
    from ltx.classifier.classifier import Classifier

LIBRARIES = {"huggingface_hub", "ltx", "timm", "torch", "torchvision", "transformers", *sys.stdlib_module_names}
"""Packages whose code is not part of the key of stored results."""


def fingerprint(model: nn.Module, head: str, mean: Tensor, std: Tensor, name: str | None) -> str:
    """A short hash of architecture, weights, head and normalisation, the same on every device.

    It does not tell apart what plain functions compute, nor what options or code of the caller change besides the
    weights; see `results_key`.

    Args:
        model: the module.
        head: how its logits are read.
        mean, std: normalisation.
        name: a timm name, which determines the architecture; None = the module's structure does.
    """
    architecture = structure(model) if name is None else name
    digest = hashlib.sha256(f"{architecture}|{head}|{mean.tolist()}|{std.tolist()}".encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def structure(model: nn.Module) -> str:
    """The submodules with their classes and settings, one per line; the class of the module itself is left out."""
    return "\n".join(
        f"{name} {type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules() if name
    )


def results_key(classifier: Classifier) -> list[Any]:
    """What stored results of a classifier depend on: fingerprint, precision, input size, and `own_settings`."""
    return [classifier.fingerprint(), classifier.precision, list(classifier.input_size), *own_settings(classifier)]


def own_settings(classifier: Classifier) -> list[str]:
    """What changes results but not the fingerprint; empty for the usual classifiers of libraries.

    These are options, layers that were set (`features`, `grid`, …), the source of classes and functions outside the
    libraries, and, where a plain function or `forward` of the caller computes the logits, a few logits.
    """
    setup = classifier.setup
    layers = {key: value for key, value in vars(setup.layers).items() if key != "single_logit"}  # is part of the head
    own = [f"{key}={value}" for key, value in layers.items() if value is not None]
    own += [f"options.{key}={value}" for key, value in sorted(setup.request.options.items())]
    own += sorted(set(_own_code(classifier)))
    if computes_elsewhere(classifier):
        own += _some_logits(classifier)
    return own


def computes_elsewhere(classifier: Classifier) -> bool:
    """Whether code that is not part of the module computes the logits, so that equal weights do not say the same."""
    return classifier.setup.forward is not None or isinstance(classifier.model, FunctionModule)


def pictures(count: int, classifier: Classifier) -> Tensor:
    """Fixed images of coloured blotches, `[count, C, H, W]`."""
    blotches = torch.rand(count, classifier.channels, 7, 7, generator=torch.Generator().manual_seed(0))
    return F.interpolate(blotches, classifier.input_size, mode="bicubic").clamp(0, 1).to(classifier.device)


@torch.no_grad()
def _some_logits(classifier: Classifier) -> list[str]:
    """Eight logits of each of two images, to two digits: on the same device, rounding does not change them."""
    mean, std = classifier.normalisation
    with torch.compiler.set_stance("force_eager"):
        logits = classifier.interface.logits((pictures(2, classifier) - mean) / std)
    return [f"{value:.1e}" for value in logits[:, :8].flatten().tolist()]


def _own_code(classifier: Classifier) -> Iterator[str]:
    """Hashes of the sources of the classes and functions in a classifier that belong to no library."""
    for module in classifier.model.modules():
        for part in (*type(module).__mro__, getattr(module, "function", None)):
            if not isinstance(part, nn.Module):
                yield from _source(part)
    setup = classifier.setup
    if setup.forward is not None:
        yield from _source(setup.forward)
    if isinstance(setup.request.name, str) and is_import_path(setup.request.name):
        package, _, attribute = setup.request.name.partition(":")
        yield from _source(getattr(sys.modules.get(package), attribute, None))


def _source(part: Any) -> Iterator[str]:
    if part is None or (getattr(part, "__module__", None) or "builtins").partition(".")[0] in LIBRARIES:
        return
    try:
        yield hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16]
    except (OSError, TypeError):  # typed at a prompt, or an object with __call__
        yield getattr(part, "__qualname__", type(part).__qualname__)
