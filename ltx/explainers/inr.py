"""A coordinate network whose masks have any requested area and resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features
from ltx.explainers.conditioning import ClassEvidence, ClassQuery, EvidenceStart, Modulation, evidence_skip
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.area_threshold import masks_of_area
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError

OMEGA = 30.0
AREA_SCALE = 0.1
"""Range of the area's coordinate, ±0.1, against ±1 for positions: masks should vary slowly with the area."""

AT_ONCE = 128 * 128
"""Most points, over all images and areas, in one pass without gradients. The modulation alone takes 10 KB per point,
2.7 GB for the pixels of one image of 512 × 512."""

MAP_AREAS = tuple(0.02 * 40 ** (step / 15) for step in range(16))
"""0.02 to 0.8 in equal ratios; the relevance map is the mean of the masks of these areas."""


class INRExplainer(MaskNetwork):
    """Implicit neural representation of masks, conditioned on their area (Byra & Skibbe, WACV 2025).

    The published network maps a position `(u, v)` in [-1, 1]² and an area to the value of the mask, and is fitted to
    one image. Its architecture is not published in detail; it follows other coordinate networks by the same authors:
    a SIREN (Sitzmann et al., NeurIPS 2020) with its initialisation, 5 hidden layers of 256 units, ω0 = 30, the input
    concatenated again half-way, and a linear last layer. Three things differ from the paper: the network outputs
    scores, standardised over the image, which are thresholded to exactly the requested area (see `masks_of_area`)
    instead of only penalising other areas; masks can be nested; and there is an amortised mode.

    In the amortised mode, features of the image and the target class modulate every layer (FiLM), each position by the
    features at that position. A linear function of these features and the class's evidence are added to the scores.
    One network, pretrained over many images, explains any image in one pass. With `trunk="none"` the network reads no
    image: it is the published one, which `ltx.finetune` fits to one image.

    Args:
        classifier, stages, conditioned: see `MaskNetwork`.
        trunk: see `MaskNetwork`; `"none"` = no image features.
        variant: `"siren"`, or `"fourier"` = random Fourier features (Tancik et al., NeurIPS 2020) with ReLU. None =
            siren without image features, and fourier in the amortised mode, where siren fits noise
            (`docs/ablations.md`).
        nested: whether the scores are independent of the area, so that masks of smaller areas are subsets of larger
            ones and one pass serves all areas.
        width: units of each hidden layer.
        depth: number of hidden layers.
        points: points per side at which the network is evaluated, with bilinear interpolation between them; None =
            every pixel. It may be changed at any time, as no parameter depends on it.
        temperature: softness of the mask's border, in standard deviations of the scores.
        evidence: the class's evidence at which training of the amortised mode starts, of weight 0.5 by default. The sum
            is standardised, so a smaller weight lets the learned scores outweigh it sooner.

    Raises:
        InputError: the variant is unknown, or a setting is out of range.
    """

    frequencies: Tensor
    head_modules = ("head", "direct", "skip")
    takes_areas = True
    method = "inr"

    def __init__(
        self,
        classifier: Classifier,
        trunk: str = "shared",
        stages: list[int] | None = None,
        conditioned: bool = True,
        variant: Literal["siren", "fourier"] | None = None,
        nested: bool = False,
        width: int = 256,
        depth: int = 5,
        points: int | None = 28,
        temperature: float = 0.05,
        evidence: EvidenceStart | None = None,
    ) -> None:
        variant = ("siren" if trunk == "none" else "fourier") if variant is None else variant
        if variant not in ("siren", "fourier"):
            raise InputError(f"explainer.variant={variant!r} is unknown for inr; allowed: siren, fourier")
        if width < 2 or depth < 1 or not 0 < temperature < math.inf or (points is not None and points < 2):
            raise InputError(
                f"explainer: width={width}, depth={depth}, points={points}, temperature={temperature}; "
                "need width >= 2, depth >= 1, points >= 2, temperature > 0"
            )
        self.variant = variant
        evidence = evidence or EvidenceStart()
        super().__init__(classifier, trunk, stages, conditioned, evidence.values)
        self.nested, self.points, self.temperature = nested, points, temperature
        # ω0 = 30 amplifies small steps of the parameters.
        self.finetuning_lr = 3e-4 if variant == "siren" else 1e-3
        inputs = 2 if nested else 3
        if variant == "fourier":
            self.register_buffer("frequencies", 2 * math.pi * torch.randn(inputs, width // 2))
            inputs = 2 * (width // 2)
        self.again = depth // 2 if depth > 1 else None  # index of the layer that receives the input again
        sizes = [inputs, *(width + inputs * (layer == self.again) for layer in range(1, depth))]
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.head = nn.Linear(width, 1)
        if variant == "siren":
            self._initialise_siren()
        self.amortised = trunk != "none"
        if self.amortised:
            self._build_conditioning(width, depth, evidence)

    def _initialise_siren(self) -> None:
        for index, layer in enumerate([*self.layers, self.head]):
            assert isinstance(layer, nn.Linear)
            bound = 1 / layer.in_features if index == 0 else math.sqrt(6 / layer.in_features) / OMEGA
            nn.init.uniform_(layer.weight, -bound, bound)

    def _build_conditioning(self, width: int, depth: int, evidence: EvidenceStart) -> None:
        code = 64
        channels = [shape[0] for shape in self.feature_shapes]
        self.norms = nn.ModuleList(nn.GroupNorm(1, count) for count in channels)
        self.project = nn.ModuleList(nn.Conv2d(count, code, kernel_size=1) for count in channels)
        self.evidence = ClassEvidence(self.classifier, channels[-1]) if self.starts_at_evidence else None
        self.query = ClassQuery(self.classifier, code) if self.conditioned else None
        self.modulate = Modulation(code, code) if self.conditioned else None
        self.mix = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(code, code, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(code, code, kernel_size=3, padding=1),
            nn.GELU(),
        )
        self.film = nn.Linear(code, 2 * width * depth)
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)
        # A linear path from the features at a position to its score, which the modulated sines would learn slowly.
        self.direct = nn.Linear(code, 1)
        nn.init.normal_(self.direct.weight, std=0.02)
        if self.variant == "fourier":
            nn.init.normal_(self.head.weight, std=0.002)
        if self.evidence is not None:
            self.skip = evidence_skip(evidence.weight, 0.5, self.evidence_maps)

    def choose_stages(self, shapes: Sequence[torch.Size]) -> list[int]:
        """The last map of each resolution from stride 8 on; for a single resolution, four evenly spaced maps."""
        last = len(shapes) - 1
        if len({shape[1:] for shape in shapes}) == 1:
            return sorted({round(last * part / 4) for part in (1, 2, 3, 4)})
        finest = min(self.classifier.input_size) / 8
        return sorted({shape[1:]: stage for stage, shape in enumerate(shapes) if min(shape[1:]) <= finest}.values())

    def decode(
        self, features: Features, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Decode scores, each map standardised to mean 0 and standard deviation 1.

        Args:
            features: feature maps of the images.
            targets: target classes, `[B]`.
            areas: requested areas, `[B, A]`; None = `MAP_AREAS` for every image.
            size: height and width of the scores; None = `points` per side, or every pixel.

        Returns:
            `[B, A, h, w]`, or `[B, 1, h, w]` for all areas with `nested`.
        """
        areas = map_areas(targets) if areas is None else areas
        height, width = size or ((self.points,) * 2 if self.points is not None else self.classifier.input_size)
        places = self._places(areas[:, :1] if self.nested else areas, height, width)
        code = self._code(features, targets, height, width)
        # With gradients, chunks save no memory: the activations of all of them are kept.
        at_once = height * width if torch.is_grad_enabled() else max(1, AT_ONCE // places[..., 0, 0].numel())
        chunks = [None] * math.ceil(height * width / at_once) if code is None else torch.split(code, at_once, 2)
        rows = zip(torch.split(places, at_once, 2), chunks, strict=True)
        scores = torch.cat([self._scores(place, chunk) for place, chunk in rows], -1).float()
        if self.amortised and self.evidence is not None:
            evidence = self.skip(self.evidence(features, targets))
            scores = scores + F.interpolate(evidence, (height, width), mode="bilinear").flatten(2)
        spread, centre = torch.std_mean(scores, -1, keepdim=True)
        return torch.unflatten((scores - centre) / (spread + 1e-6), 2, (height, width))

    def _places(self, areas: Tensor, height: int, width: int) -> Tensor:
        """Input of the network at pixel centres, `[B, A, h·w, 2]`, or 3 with the area's coordinate."""
        v, u = ((torch.arange(side, device=areas.device) + 0.5) * 2 / side - 1 for side in (height, width))
        grid = torch.stack([u.expand(height, -1), v[:, None].expand(-1, width)], -1).view(1, 1, -1, 2)
        places = grid.expand(*areas.shape, -1, -1)
        if self.nested:
            return places
        area = AREA_SCALE * (areas.logit() / 4)[..., None, None].expand(-1, -1, height * width, 1)
        return torch.cat([places, area], -1)

    def _code(self, features: Features, targets: Tensor, height: int, width: int) -> Tensor | None:
        """Features of image and class at each position, `[B, 1, h·w, C]`; None for a network that reads no image."""
        if not self.amortised:
            return None
        size = features.stages[0].shape[-2:]
        maps = zip((*features.stages, features.final), self.norms, self.project, strict=True)
        parts = [F.interpolate(project(norm(x)), size, mode="bilinear") for x, norm, project in maps]
        x = torch.stack(parts).sum(0)
        if self.query is not None and self.modulate is not None:
            x = self.modulate(x, self.query(targets))
        x = F.interpolate(self.mix(x), (height, width), mode="bilinear")
        return x.flatten(2).transpose(1, 2).unsqueeze(1)

    def _scores(self, places: Tensor, code: Tensor | None) -> Tensor:
        """Scores `[B, A, N]` of inputs `[B, A, N, 2]` or `[B, A, N, 3]`."""
        if self.variant == "fourier":
            phases = places @ self.frequencies
            places = torch.cat([phases.sin(), phases.cos()], -1)
        films = None if code is None else self.film(code).chunk(len(self.layers), -1)
        x = places
        for index, layer in enumerate(self.layers):
            x = layer(torch.cat([x, places], -1) if index and index == self.again else x)
            x = OMEGA * x if self.variant == "siren" else x
            if films is not None:
                scale, shift = films[index].chunk(2, -1)
                x = x * (1 + scale) + shift
            x = x.sin() if self.variant == "siren" else x.relu()
        scores: Tensor = self.head(x) if code is None else self.head(x) + self.direct(code)
        return scores.squeeze(-1)

    def masks(
        self,
        scores: Tensor,
        areas: Tensor | None = None,
        allowed: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Masks `[B, A, H, W]` whose mean at image resolution is the requested area.

        Args:
            scores: output of `decode`, `[B, A, h, w]` or `[B, 1, h, w]`.
            areas: requested areas, `[B, A]`; None = `MAP_AREAS` for every image.
            allowed: pixels that a mask may keep, `[B, 1, H, W]`; see `masks_of_area`.
            size: height and width of the masks; None = the classifier's input size.
        """
        areas = map_areas(scores) if areas is None else areas
        size = size or self.classifier.input_size
        scores = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)
        allowed = None if allowed is None else F.interpolate(allowed, size, mode="nearest")
        return masks_of_area(scores.expand(-1, areas.shape[1], -1, -1), areas, self.temperature, allowed)

    def upsample(self, logits: Tensor) -> Tensor:
        """The relevance map `[B, 1, H, W]`: the mean of the masks of `MAP_AREAS`, from the scores of these areas."""
        return self.masks(logits).mean(1, keepdim=True)


def map_areas(like: Tensor) -> Tensor:
    """`MAP_AREAS` for each row of a tensor `[B, …]`, on its device: float32 `[B, 16]`."""
    return tensor_on(like.device, MAP_AREAS).expand(len(like), -1)
