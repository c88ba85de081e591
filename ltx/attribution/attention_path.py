"""Gradients of the class logit along paths of attention matrices, at the least cost: what IIA and DIX need of a ViT.

Attention matrices of one or more of the last blocks are scaled by factors between 0 (no attention) and 1 (the image's
own). For every point of that path the methods want `∇A` in *every* block. Three savings, none of them approximate but
the last:

- blocks before the first scaled one are run once, and again only backward;
- where the head reads single tokens, the last block's projection and MLP are run on those alone;
- the gradients that the points of one path send to the earlier blocks are nearly dependent: they change smoothly
  with the factor. Backward passes are linear, so one pass for each vector of an orthonormal basis of them serves all
  points. `tolerance` is the share (in norm, of the largest direction) that the basis may leave out; 0 = nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn

from ltx.attribution.attention import attention_layers, captured, readout, unfused
from ltx.attribution.partial_forward import answered_by, record
from ltx.attribution.rollout import positive_relevance
from ltx.classifier.classifier import Classifier

Point = tuple[float, ...]


@dataclass
class PathGradients:
    """Attention and gradients at `K` points of a path, for `S` samples.

    Attributes:
        below: for each block before the first scaled one, `A ∘ G_r` `[S, heads, N, N]` for each of `R` basis vectors.
        coefficients: `[S, K, R]`: the gradient at point `k` is `Σ_r coefficients[k, r] G_r`.
        above: for each scaled or later block, `relu(A ∘ ∇A)`, mean over heads, `[K, S, N, N]`.
        attention: the attention of the last scaled block at factor 1, mean over heads, `[K, S, N, N]`.
        start: the tokens that the head reads, `[N]`.
    """

    below: list[list[Tensor]]
    coefficients: Tensor
    above: list[Tensor]
    attention: Tensor
    start: Tensor

    def mean(self) -> list[Tensor]:
        """For each block the mean over points and heads of `relu(A ∘ ∇A)`, `[S, N, N]`."""
        count = self.coefficients.shape[1]
        below = [sum((self._at(basis, k) for k in range(1, count)), self._at(basis, 0)) / count for basis in self.below]
        return [*below, *(matrix.mean(0) for matrix in self.above)]

    def points(self) -> Iterator[list[Tensor]]:
        """For each point the mean over heads of `relu(A ∘ ∇A)` of every block, `[S, N, N]` each."""
        for k in range(self.coefficients.shape[1]):
            yield [*(self._at(basis, k) for basis in self.below), *(matrix[k] for matrix in self.above)]

    def _at(self, basis: list[Tensor], point: int) -> Tensor:
        mixed = self.coefficients[:, point, 0].view(-1, 1, 1, 1) * basis[0]
        for index in range(1, len(basis)):
            mixed.addcmul_(self.coefficients[:, point, index].view(-1, 1, 1, 1), basis[index])
        return mixed.relu_().mean(1)


def path_gradients(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    blocks: Sequence[int],
    points: Sequence[Point],
    max_batch: int,
    tolerance: float,
) -> PathGradients:
    """Gradients of the logits of `targets` `[S]` for `images` `[S, 3, H, W]`, at every point of a path.

    Args:
        blocks: the blocks whose attention is scaled, ascending.
        points: for each point, one factor for each of `blocks`. The scaled matrices are constants of their own: no
            gradient goes through the softmax that made them.
        max_batch: rows of one forward pass, at most (but `S` at least).
        tolerance: see the module.
    """
    layers, model = attention_layers(classifier), classifier.model
    first, rows = blocks[0], images.shape[0]
    with torch.enable_grad(), unfused(model):
        with captured(layers) as attention:
            before = record(model, layers[first], lambda: classifier(images))
        lower = [attention[block] for block in range(first)]
        own = before.value.detach()
        seeds: list[list[Tensor]] = []
        above: list[list[Tensor]] = []
        shown: list[Tensor] = []
        used: list[int] = []
        step = max(1, max_batch // rows)
        for begin in range(0, len(points), step):
            chunk = points[begin : begin + step]
            count = len(chunk)
            factors = torch.tensor(chunk, device=own.device).repeat_interleave(rows, 0).view(-1, len(blocks), 1, 1, 1)
            value = (own * factors[:, 0].unflatten(0, (count, rows)).to(own.dtype)).flatten(0, 1).requires_grad_()
            with ExitStack() as stack:
                whole = stack.enter_context(_scaled(layers, blocks[1:], factors[:, 1:]))
                later = stack.enter_context(captured(layers, first + 1))
                stack.enter_context(_read_tokens_only(classifier, layers, first))
                leaves = stack.enter_context(before.replaying(value, count))
                logits = classifier(images.repeat(count, 1, 1, 1))
            score = logits.gather(1, targets.repeat(count)[:, None]).sum()
            matrices = [value, *(later[block] for block in range(first + 1, len(layers)))]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = torch.autograd.grad(score, [*matrices, *wanted], allow_unused=True)
            with torch.no_grad():
                relevances = [
                    positive_relevance(
                        matrix.detach().float(), torch.zeros_like(matrix) if grad is None else grad.float()
                    )
                    for matrix, grad in zip(matrices, found[: len(matrices)], strict=True)
                ]
                above.append([matrix.unflatten(0, (count, rows)) for matrix in relevances])
                last = whole.get(blocks[-1], own)
                matrix = last.detach().float().mean(1)
                shown.append(matrix.unflatten(0, (-1, rows)).expand(count, -1, -1, -1))
            gradients = found[len(matrices) :]
            used = [index for index, gradient in enumerate(gradients) if gradient is not None]
            seeds.append([gradients[index].unflatten(0, (count, rows)).float() for index in used])
        coefficients, below = _carried_down(before.tensors(), used, seeds, lower, len(points), rows, tolerance)
    return PathGradients(
        below,
        coefficients,
        [torch.cat(parts) for parts in zip(*above, strict=True)],
        torch.cat(shown),
        readout(classifier, own.shape[-1]),
    )


def _carried_down(
    outputs: list[Tensor],
    used: list[int],
    chunks: list[list[Tensor]],
    lower: list[Tensor],
    count: int,
    rows: int,
    tolerance: float,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Carries the gradients of all points to the blocks before the cut: coefficients `[S, K, R]` and `A ∘ G_r`."""
    if not lower:
        return torch.zeros(rows, count, 1, device=outputs[0].device if outputs else None), []
    ends = [output for output in outputs if output.requires_grad]
    seeds = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*chunks, strict=True)]  # [K, S, …]
    basis, coefficients = _basis(seeds, tolerance)
    below: list[list[Tensor]] = [[] for _ in lower]
    size = coefficients.shape[-1]
    for r in range(size):
        incoming = [seed.to(ends[index].dtype) for index, seed in zip(used, basis(r), strict=True)]
        found = torch.autograd.grad(
            [ends[index] for index in used], lower, incoming, retain_graph=r + 1 < size, allow_unused=True
        )
        for parts, attention, gradient in zip(below, lower, found, strict=True):
            parts.append(attention.detach().float() * (0 if gradient is None else gradient.float()))
    return coefficients, below


def _basis(seeds: list[Tensor], tolerance: float) -> tuple[Callable[[int], list[Tensor]], Tensor]:
    """An orthonormal basis, for each sample, of the gradients at its points.

    Args:
        seeds: gradients `[K, S, …]` at the tensors that cross the cut.

    Returns:
        A function that makes basis vector `r` (one tensor `[S, …]` for each of `seeds`), and coefficients `[S, K, R]`.
    """
    count, rows = seeds[0].shape[:2]
    if tolerance <= 0 or count == 1:
        same = torch.eye(count, device=seeds[0].device).expand(rows, -1, -1)
        return lambda r: [seed[r] for seed in seeds], same
    gram = torch.zeros(rows, count, count, device=seeds[0].device)
    for seed in seeds:
        flat = seed.transpose(0, 1).flatten(2)
        gram += flat @ flat.mT
    strength, vectors = torch.linalg.eigh(gram.double())  # ascending
    strength, vectors = strength.flip(-1).clamp_min(0), vectors.flip(-1)
    left_out = (strength.sum(-1, keepdim=True) - strength.cumsum(-1)).clamp_min(0).sqrt()
    enough = left_out <= tolerance * strength[:, :1].sqrt()
    size = int((~enough).sum(-1).max()) + 1
    coefficients = vectors[:, :, : min(size, count)].float()

    def vector(r: int) -> list[Tensor]:
        return [torch.einsum("ks...,sk->s...", seed, coefficients[:, :, r]) for seed in seeds]

    return vector, coefficients


@contextmanager
def _scaled(layers: list[nn.Module], blocks: Sequence[int], factors: Tensor) -> Iterator[dict[int, Tensor]]:
    """Scales the attention of `blocks`, row by row, by `factors` `[rows, len(blocks), 1, 1, 1]`, as constants.

    Yields:
        A dictionary that the forward pass fills with the unscaled matrices.
    """
    whole: dict[int, Tensor] = {}
    handles = []

    def scale(block: int, factor: Tensor) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            whole[block] = output.detach()
            return (output.detach() * factor.to(output.dtype)).requires_grad_()

        handles.append(layers[block].register_forward_hook(hook))

    try:
        for index, block in enumerate(blocks):
            scale(block, factors[:, index])
        yield whole
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _read_tokens_only(classifier: Classifier, layers: list[nn.Module], first: int) -> Iterator[None]:
    """The last block's attention is projected, and its MLP run, on the tokens that the head reads, where these are
    prefix tokens alone.

    What both make of the other tokens reaches nothing: the rest of the block and the head treat tokens one by one.
    """
    model, prefix = classifier.model, classifier.num_prefix_tokens
    block = model.blocks[-1]  # type: ignore[index]
    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    weights = readout(classifier, prefix + 1)
    narrowed: list[nn.Module] = []
    if first + 1 == len(layers) and not weights[prefix:].any():
        projection = getattr(attention, "proj", None)
        narrowed += [projection] if isinstance(projection, nn.Linear) else []
        narrowed += [mlp] if isinstance(mlp, (Mlp, GluMlp, SwiGLU)) else []

    def narrow(own: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda tokens: F.pad(own(tokens[:, :prefix]), (0, 0, 0, tokens.shape[1] - prefix))

    with answered_by({module: narrow(module.forward) for module in narrowed}):
        yield
