"""Gradients of the class logit along paths of attention matrices, as IIA and DIX need them for vision transformers.

The attention matrices of one or more of the last blocks are scaled by factors from 0 (no attention) to 1 (the image's
attention). For every point of that path, the methods need `∇A` in *every* block. Three things reduce the cost; the
first two are exact:

- The blocks before the first scaled one run forward once.
- If the head reads only leading tokens, the layers after the last attention run on these tokens alone.
- The gradients that the points of a path send to the earlier blocks change smoothly with the factor, so they are nearly
  linearly dependent. Backward passes are linear, so one pass per vector of a basis serves all points. The basis is the
  mean of these gradients and the principal directions of the residuals. `tolerance` bounds the norm of what it omits,
  relative to the parts along the mean; 0 = exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ltx.attribution.attention import AttentionChain, attention_chain, graph_leaf
from ltx.attribution.partial_forward import CutReached, Recording, record
from ltx.attribution.rollout import positive_relevance
from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import tensor_on

Point = tuple[float, ...]

TOLERANCE = 0.025
"""Default tolerance: on DeiT-Tiny, maps differ from exact ones by at most 5e-4 of their range (8 photographs)."""


@dataclass
class PathGradients:
    """Attention and gradients at `K` points of a path, for `S` samples.

    Matrices of the last block have only the rows `P <= N` up to the last token that the head reads.

    Attributes:
        below: for each block before the first scaled one, `A ∘ G_r` `[S, heads, N, N]` for each of `R` basis vectors.
        coefficients: `[S, K, R]`; the gradient at point `k` is `Σ_r coefficients[k, r] G_r`.
        above: for each block from the first scaled one on, `relu(A ∘ ∇A)`, averaged over heads, `[K, S, P, N]`.
        attention: unscaled attention of the last scaled block, averaged over heads, `[K, S, P, N]`.
        start: weights `[N]` of the tokens that the head reads.
    """

    below: list[list[Tensor]]
    coefficients: Tensor
    above: list[Tensor]
    attention: Tensor
    start: Tensor

    def mean(self) -> list[Tensor]:
        """For each block, the mean of `relu(A ∘ ∇A)` over points and heads, `[S, P, N]`."""
        below = [mean_of_rectified(basis, self.coefficients).mean(1) for basis in self.below]
        return [*below, *(matrix.mean(0) for matrix in self.above)]

    def points(self) -> Iterator[list[Tensor]]:
        """For each point, the mean of `relu(A ∘ ∇A)` over heads for every block, `[S, P, N]` each."""
        for k in range(self.coefficients.shape[1]):
            below = [mean_of_rectified(basis, self.coefficients[:, k : k + 1]).mean(1) for basis in self.below]
            yield [*below, *(matrix[k] for matrix in self.above)]


def mean_of_rectified(basis: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """`mean_k relu(Σ_r c_kr M_r)` for matrices `M_r` `[S, …]` and coefficients `c` `[S, K, R]`, `[S, …]`."""
    count = coefficients.shape[1]
    shape = (-1, *[1] * (basis[0].ndim - 1))
    if len(basis) == 1:
        positive, negative = ((s * coefficients[:, :, 0]).relu().mean(1).view(shape) for s in (1, -1))
        return positive * basis[0].relu() + negative * (-basis[0]).relu_()
    total = torch.zeros_like(basis[0])
    for k in range(count):
        mixed = coefficients[:, k, 0].view(shape) * basis[0]
        for r in range(1, len(basis)):
            mixed.addcmul_(coefficients[:, k, r].view(shape), basis[r])
        total += mixed.relu_()
    return total / count


@dataclass
class _Replays:
    """Passes of the blocks after the cut, at all points so far."""

    above: list[list[Tensor]] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)  # at the leaves `used`, `[K, S, …]` each
    used: list[int] = field(default_factory=list)


def path_gradients(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    blocks: Sequence[int],
    points: Sequence[Point],
    max_batch: int,
    tolerance: float,
    attention: Tensor | None = None,
) -> PathGradients:
    """Gradients of the logits of `targets` `[S]` for `images` `[S, 3, H, W]` at every point of a path.

    Args:
        classifier: a vision transformer.
        images: `[S, 3, H, W]` in [0, 1].
        targets: class indices `[S]`.
        blocks: the blocks whose attention is scaled, ascending.
        points: for each point, one factor per entry of `blocks`. The scaled matrices are constants: no gradient flows
            through their softmax.
        max_batch: maximum batch size of a forward pass, but at least `S`.
        tolerance: see the module.
        attention: matrices `[S, heads, N, N]` to scale in place of the attention of the first of `blocks`.
    """
    chain = attention_chain(classifier)
    lower: list[Tensor] = []

    def stop_at_first(block: int, compute: Callable[[], Tensor]) -> Tensor:
        if block == blocks[0]:
            raise CutReached(compute())
        lower.append(graph_leaf(compute()))
        return lower[-1]

    with torch.enable_grad():
        with chain.intercept(stop_at_first):
            prefix = record(classifier.model, None, partial(classifier, images))
        if attention is not None:
            prefix.value = attention
        replays = _Replays()
        step = max(1, max_batch // len(images))
        for begin in range(0, len(points), step):
            _replay(classifier, chain, prefix, images, targets, blocks, points[begin : begin + step], replays)
        coefficients, below = _carried_down(prefix.tensors(), replays, lower, (len(images), len(points)), tolerance)
    above = [torch.cat(parts) for parts in zip(*replays.above, strict=True)]
    return PathGradients(below, coefficients, above, torch.cat(replays.attention), chain.start)


def _replay(
    classifier: Classifier,
    chain: AttentionChain,
    prefix: Recording,
    images: Tensor,
    targets: Tensor,
    blocks: Sequence[int],
    points: Sequence[Point],
    replays: _Replays,
) -> None:
    """Run the blocks after the cut forward and backward at some points, and add the results to `replays`."""
    rows, count, first = len(images), len(points), blocks[0]
    only_last = first + 1 == len(chain)
    attention = prefix.value.detach()[..., : chain.tokens_read if only_last else chain.tokens, :]
    factors = tensor_on(images.device, points).repeat_interleave(rows, 0).view(-1, len(blocks), 1, 1, 1)
    scaled = (attention * factors[:, 0].unflatten(0, (count, rows)).to(attention.dtype)).flatten(0, 1).requires_grad_()
    matrices: dict[int, Tensor] = {first: scaled}
    unscaled: Tensor = attention

    def replace(block: int, compute: Callable[[], Tensor]) -> Tensor:
        nonlocal unscaled
        if block in blocks[1:]:
            unscaled = compute().detach()
            matrices[block] = (unscaled * factors[:, blocks.index(block)].to(unscaled.dtype)).requires_grad_()
        elif block != first:
            matrices[block] = graph_leaf(compute())
        return matrices[block]

    with ExitStack() as stack:
        if only_last:
            stack.enter_context(chain.on_tokens_read())
        leaves = stack.enter_context(prefix.replaying(count))
        stack.enter_context(chain.intercept(replace, first))
        logits = classifier.logits(prefix.inputs.repeat(count, 1, 1, 1))
    score = logits.gather(1, targets.repeat(count)[:, None]).sum()
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    found = torch.autograd.grad(score, [*matrices.values(), *leaves], allow_unused=True)
    with torch.no_grad():
        relevances = [
            positive_relevance(matrix.detach().float(), torch.zeros_like(matrix) if grad is None else grad.float())
            for matrix, grad in zip(matrices.values(), found[: len(matrices)], strict=True)
        ]
        replays.above.append([matrix.unflatten(0, (count, rows)) for matrix in relevances])
        mean = unscaled.detach().float().mean(1)
        replays.attention.append(mean.unflatten(0, (-1, rows)).expand(count, -1, -1, -1))
    gradients = found[len(matrices) :]
    replays.used = [index for index, gradient in enumerate(gradients) if gradient is not None]
    replays.gradients.append([gradients[index].unflatten(0, (count, rows)).float() for index in replays.used])


def _carried_down(
    outputs: list[Tensor], replays: _Replays, lower: list[Tensor], shape: tuple[int, int], tolerance: float
) -> tuple[Tensor, list[list[Tensor]]]:
    """Propagate the gradients of all points to the blocks before the cut.

    Args:
        outputs: the tensors that were recorded before the cut.
        replays: gradients of these tensors at all points.
        lower: attention of the blocks before the cut, on the graph.
        shape: numbers `(S, K)` of samples and points.
        tolerance: see the module.

    Returns:
        Coefficients `[S, K, R]`, and `A ∘ G_r` for each block and each of `R` basis vectors.
    """
    if not lower:
        return torch.zeros(*shape, 1, device=replays.attention[0].device), []
    ends = [output for output in outputs if output.requires_grad]
    parts = zip(*replays.gradients, strict=True)
    basis, coefficients = _basis([torch.cat(part) if len(part) > 1 else part[0] for part in parts], tolerance)
    below: list[list[Tensor]] = [[] for _ in lower]
    size = coefficients.shape[-1]
    for r in range(size):
        incoming = [seed.to(ends[index].dtype) for index, seed in zip(replays.used, basis(r), strict=True)]
        gradients = torch.autograd.grad(
            [ends[index] for index in replays.used], lower, incoming, retain_graph=r + 1 < size, allow_unused=True
        )
        for products, attention, gradient in zip(below, lower, gradients, strict=True):
            products.append(attention.detach().float() * (0 if gradient is None else gradient.float()))
    return coefficients, below


def _basis(seeds: list[Tensor], tolerance: float) -> tuple[Callable[[int], list[Tensor]], Tensor]:
    """Basis, for each sample, of the gradients at its points.

    Args:
        seeds: gradients `[K, S, …]` at the tensors that cross the cut.
        tolerance: see the module.

    Returns:
        A function from `r` to basis vector `r` (one tensor `[S, …]` for each of `seeds`), and coefficients `[S, K, R]`.
    """
    count, rows = seeds[0].shape[:2]
    if tolerance <= 0 or count == 1:
        identity = torch.eye(count, device=seeds[0].device).expand(rows, -1, -1)
        return lambda r: [seed[r] for seed in seeds], identity
    gram = torch.zeros(rows, count, count, device=seeds[0].device)
    for seed in seeds:
        flat = seed.transpose(0, 1).flatten(2)
        gram += flat @ flat.mT
    weights, coefficients, size = mean_and_residuals(gram.double(), tolerance)
    weights, coefficients = weights[:, :, :size].float(), coefficients[:, :, :size].float()

    def vector(r: int) -> list[Tensor]:
        return [torch.einsum("ks...,sk->s...", seed, weights[:, :, r]) for seed in seeds]

    return vector, coefficients


def mean_and_residuals(gram: Tensor, tolerance: float) -> tuple[Tensor, Tensor, int]:
    """The mean of some vectors, and the principal directions of what it leaves, as combinations of these vectors.

    With `g_k = c_k ḡ + e_k`, the residuals `e_k` are orthogonal to the mean `ḡ` and sum to zero. A mean over `k` of a
    rectified linear function of `g_k` therefore does not change to first order if they are omitted.

    Args:
        gram: inner products of the vectors, `[S, K, K]`.
        tolerance: norm of the omitted part, relative to that of the parts along the mean.

    Returns:
        Weights `W` and coefficients `C`, `[S, K, K + 1]` each: basis vector `r` is `Σ_k W_kr g_k`, and
        `g_k = Σ_r C_kr Σ_j W_jr g_j`. The last value is the number of basis vectors within the tolerance.
    """
    count = gram.shape[-1]
    with_mean = gram.mean(2)  # <g_k, ḡ>
    square = with_mean.mean(1, keepdim=True)  # |ḡ|²
    along = with_mean / square.clamp_min(torch.finfo(gram.dtype).tiny)
    projection = torch.eye(count, device=gram.device, dtype=gram.dtype) - along.unsqueeze(1) / count
    strength, directions = torch.linalg.eigh(projection.mT @ gram @ projection)  # ascending
    strength, directions = strength.flip(-1).clamp_min(0), directions.flip(-1)
    total = strength.sum(-1, keepdim=True)
    omitted = torch.cat([total, total - strength.cumsum(-1)], 1).clamp_min(0).sqrt()
    enough = omitted <= tolerance * (square * along.square().sum(1, keepdim=True)).sqrt()
    size = min(int((~enough).sum(-1).max()) + 1, count + 1)
    weights = torch.cat([torch.full_like(along, 1 / count).unsqueeze(2), projection @ directions], 2)
    return weights, torch.cat([along.unsqueeze(2), directions], 2), size
