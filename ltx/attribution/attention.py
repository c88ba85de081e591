"""The chain of global self-attentions of a vision transformer: its blocks, their matrices, and the tokens it reads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.attribution.interception import AttentionInterception, Handler, LeadingQueries
from ltx.attribution.model_trace import AttentionCall, ModelTrace, ModuleCall, model_trace
from ltx.attribution.partial_forward import replaced_forwards
from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError


@dataclass(frozen=True)
class AttentionChain:
    """Self-attentions over the prefix and patch tokens, one per block, each applied to the output of the previous one.

    Attributes:
        blocks: the block of each attention, first to last.
        heads: number of heads of each block.
        tokens: number of tokens `N`.
        start: weights `[N]`, summing to 1, of the tokens that the head reads; a rollout starts from them.
        rows_read: indices of these tokens.
        tokens_read: number of leading tokens that include all tokens that the head reads.
        reads_patches: whether the head reads patch tokens.
        last_input: the first layer of the last block, which normalises the tokens before the attention.
        later_modules: modules after the last attention that can run on the tokens that the head reads alone.
    """

    blocks: list[ModuleCall]
    heads: list[int]
    tokens: int
    start: Tensor
    rows_read: Tensor
    tokens_read: int
    reads_patches: bool
    last_input: ModuleCall | None
    later_modules: list[nn.Module]

    def __len__(self) -> int:
        return len(self.blocks)

    def intercept(self, handler: Handler, first: int = 0) -> AttentionInterception:
        """Context in which `handler` receives the attention of the blocks from `first` on."""
        return AttentionInterception(self.tokens, self.heads, handler, first)

    def on_tokens_read(self) -> AbstractContextManager[None]:
        """Context in which the layers after the last attention run only on the leading tokens that the head reads."""

        def narrow(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def on_first(tokens: Tensor) -> Tensor:
                if tokens.ndim != 3 or tokens.shape[1] != self.tokens:
                    return forward(tokens)
                return F.pad(forward(tokens[:, : self.tokens_read]), (0, 0, 0, self.tokens - self.tokens_read))

            return on_first

        return replaced_forwards({module: narrow(module.forward) for module in self.later_modules})

    def last_attention_on_tokens_read(self) -> AbstractContextManager[None]:
        """Context in which the last attention, if it is fused, is computed for the leading tokens that are read."""
        block = self.blocks[-1].module
        forward = block.forward

        def on_first(*args: Any, **kwargs: Any) -> Any:
            with LeadingQueries(self.tokens, self.tokens_read):
                return forward(*args, **kwargs)

        return replaced_forwards({block: on_first})

    @contextmanager
    def captured(self) -> Iterator[dict[int, Tensor]]:
        """Context that collects the attention of forward passes, with gradients.

        Yields:
            Dictionary from the block to its attention `[B, heads, N, N]` on the autograd graph, filled by each forward
            pass.
        """
        attention: dict[int, Tensor] = {}

        def keep(block: int, matrix: Tensor) -> Tensor:
            attention[block] = graph_leaf(matrix)
            return attention[block]

        with self.intercept(lambda block, compute: keep(block, compute())):
            yield attention


def graph_leaf(matrix: Tensor) -> Tensor:
    """The matrix, or a leaf of the autograd graph in its place if nothing before it requires gradients.

    The classifier's weights are frozen, so the graph starts at the first matrix and the backward pass ends there.
    """
    if torch.is_grad_enabled() and not matrix.requires_grad:
        return matrix.detach().requires_grad_()
    return matrix


def attention_chain(classifier: Classifier) -> AttentionChain:
    """The chain of self-attentions of a classifier.

    Raises:
        InputError: the model has no such chain; the message says why.
    """
    found = _found(classifier)
    if isinstance(found, str):
        raise InputError(found)
    return found


def attention_refusal(classifier: Classifier) -> str:
    """Reason why attention methods do not work on this model; an empty string if they do."""
    found = _found(classifier)
    return found if isinstance(found, str) else ""


def has_attention(classifier: Classifier) -> bool:
    """Whether the model has one global self-attention per block, over prefix and patch tokens."""
    return not attention_refusal(classifier)


_chains: weakref.WeakKeyDictionary[Classifier, tuple[ModelTrace, AttentionChain | str]] = weakref.WeakKeyDictionary()


def _found(classifier: Classifier) -> AttentionChain | str:
    trace = model_trace(classifier)
    cached = _chains.get(classifier)
    if cached is None or cached[0] is not trace:
        cached = _chains[classifier] = trace, _chain(classifier, trace)
    return cached[1]


def _chain(classifier: Classifier, trace: ModelTrace) -> AttentionChain | str:
    name = classifier.name
    try:
        height, width = classifier.grid
    except (InputError, TypeError, ValueError):
        return f"{name} has no grid of tokens"
    prefix = classifier.num_prefix_tokens
    tokens = height * width + prefix
    chain = [call for call in trace.attention if _is_over(call, tokens)]
    last = trace.attention.index(chain[-1]) if chain else len(trace.attention) - 1
    if any(call not in chain for call in trace.attention[: last + 1]):
        return (
            f"{name} has attention that is not over all tokens of its final map: windows, channels, pooled tokens, "
            "single tokens or another resolution"
        )
    if not chain:
        return f"{name} has no self-attention over its tokens"
    if not all(call.follows_previous for call in chain):
        return f"{name} has blocks with several parallel self-attentions"
    rows_read = chain[-1].rows_read
    if rows_read is None:
        return f"{name} has square attention matrices after those over its {tokens} tokens"
    blocks, start = _blocks(chain), _start(rows_read, prefix)
    return AttentionChain(
        blocks,
        [call.shape[-3] for call in chain],
        tokens,
        tensor_on(classifier.device, start),
        tensor_on(classifier.device, [token for token, weight in enumerate(start) if weight]),
        max(token + 1 for token, weight in enumerate(start) if weight),
        any(start[prefix:]),
        _first_layer(blocks[-1], trace.calls[: chain[-1].calls_before]),
        chain[-1].later_modules,
    )


def _is_over(call: AttentionCall, tokens: int) -> bool:
    shape = call.shape
    return shape[-2:] == (tokens, tokens) and (len(shape) == 3 or (len(shape) == 4 and shape[0] == 1))


def _blocks(chain: list[AttentionCall]) -> list[ModuleCall]:
    """For each attention the outermost module call that contains no other one and returns tokens."""
    callers = [call.caller.callers() for call in chain]
    blocks = []
    for index, own in enumerate(callers):
        shared = {id(each) for other, calls in enumerate(callers) if other != index for each in calls}
        alone = [call for call in own if id(call) not in shared]
        with_tokens = [call for call in alone if call.shape is not None and len(call.shape) == 3]
        blocks.append((with_tokens or alone or own[:1])[-1])
    return blocks


def _first_layer(block: ModuleCall, calls: list[ModuleCall]) -> ModuleCall | None:
    """The first call directly inside a block among these calls."""
    return next((call for call in calls if call.parent is block), None)


def _start(rows_read: list[bool], prefix: int) -> list[float]:
    """Weights of the tokens that the head reads: prefix tokens, and all patch tokens if it reads any of them.

    Maximum pooling reads each channel from another token, so one pass does not use every token.
    """
    read = list(rows_read)
    if not any(read):  # an untrained head of zeros
        read = [token == 0 or not prefix for token in range(len(read))]
    elif any(read[prefix:]):
        read[prefix:] = [True] * (len(read) - prefix)
    return [each / sum(read) for each in read]
