"""An independent float64 forward pass of a ViT whose attention can be overridden, and rollouts by full matrices."""

import copy

import torch
import torch.nn.functional as F

from ltx import Classifier


class ReferenceViT:
    """Class-token ViT, written out; `attention` of the last pass is on the graph."""

    def __init__(self, classifier: Classifier) -> None:
        self.model = copy.deepcopy(classifier.model).double()
        self.mean, self.std = (part.double() for part in classifier.normalisation)

    def normalise(self, image: torch.Tensor) -> torch.Tensor:
        return (image.double() - self.mean) / self.std

    def logits(self, normalised: torch.Tensor, given: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
        model, self.attention = self.model, []
        tokens = F.conv2d(normalised, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=8)
        tokens = torch.cat([model.cls_token.expand(len(tokens), -1, -1), tokens.flatten(2).transpose(1, 2)], 1)
        tokens = tokens + model.pos_embed
        for number, block in enumerate(model.blocks):
            normal = F.layer_norm(tokens, (16,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
            q, k, v = F.linear(normal, block.attn.qkv.weight, block.attn.qkv.bias).unflatten(2, (3, 2, 8)).unbind(2)
            attention = torch.einsum("bnhd,bmhd->bhnm", q, k).div(8**0.5).softmax(-1)
            attention = (given or {}).get(number, attention)
            if not attention.requires_grad:
                attention = attention.requires_grad_()
            self.attention.append(attention)
            mixed = torch.einsum("bhnm,bmhd->bnhd", attention, v).flatten(2)
            tokens = tokens + F.linear(mixed, block.attn.proj.weight, block.attn.proj.bias)
            normal = F.layer_norm(tokens, (16,), block.norm2.weight, block.norm2.bias, block.norm2.eps)
            hidden = F.gelu(F.linear(normal, block.mlp.fc1.weight, block.mlp.fc1.bias))
            tokens = tokens + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
        tokens = F.layer_norm(tokens, (16,), model.norm.weight, model.norm.bias, model.norm.eps)
        return F.linear(tokens[:, 0], model.head.weight, model.head.bias)

    def relevances(
        self, normalised: torch.Tensor, target: int, given: dict[int, torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """`relu(A ∘ ∇A)`, mean over heads, of every block, for one image."""
        given = {block: matrix.detach().requires_grad_() for block, matrix in (given or {}).items()}
        score = self.logits(normalised, given)[0, target]
        gradients = torch.autograd.grad(score, self.attention)
        return [(a * g).clamp(min=0).mean(1)[0].detach() for a, g in zip(self.attention, gradients, strict=True)]


def rollout(matrices: list[torch.Tensor]) -> torch.Tensor:
    """The class token's row of the product of row-normalised `C + I`, without the class token."""
    joint = torch.eye(len(matrices[0]), dtype=torch.float64)
    for matrix in matrices:
        augmented = matrix + torch.eye(len(matrix), dtype=torch.float64)
        joint = (augmented / augmented.sum(-1, keepdim=True)) @ joint
    return joint[0, 1:]


def as_map(row: torch.Tensor) -> torch.Tensor:
    return F.interpolate(row.view(1, 1, 2, 3), size=(16, 24), mode="bilinear")
