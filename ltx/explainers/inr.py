"""A coordinate network that writes a mask of any area asked for, at any resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features
from ltx.explainers.conditioning import ClassEvidence, ClassQuery, Modulation, evidence_skip
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.area_threshold import masks_of_area
from ltx.runtime.errors import InputError

OMEGA = 30.0
AREA_SCALE = 0.1
"""The area's coordinate spans ±0.1, where the places span ±1: masks should change slowly with it."""

AT_ONCE = 128 * 128
"""Points, of all images and areas, in one pass of the layers without gradients: modulation alone holds 10 KB for each,
2.7 GB for the pixels of one picture of 512 x 512."""

MAP_AREAS = tuple(0.02 * 40 ** (step / 15) for step in range(16))
"""0.02 to 0.8 in equal ratios: one map of importance is the mean of the masks of these areas."""


class INRExplainer(MaskNetwork):
    """Implicit neural representation of masks, conditioned on their area (Byra & Skibbe, WACV 2025).

    Published: a network from place `(u, v)` in [-1, 1]² and area to the mask's value there, fitted to one image. Not
    published, and taken from its authors' other coordinate networks: SIREN (Sitzmann et al., NeurIPS 2020) with its
    initialisation, 5 hidden layers of 256, ω0 = 30, the input given again half-way, a linear last layer. Ours: the
    network writes scores, standardised over the image, and the area holds exactly by a threshold on them (see
    `masks_of_area`) instead of a penalty alone; `nested`; and the amortised mode.

    Amortised, features of the image and of the class asked about modulate every layer (FiLM), each place by the
    features found there; to its scores are added a linear reading of those features and the class's evidence, where
    training begins. One network pretrained over many images then serves all of them in one pass. With `trunk="none"`
    the network reads no image: it is the published one, which `ltx.finetune` fits to one image.

    Args:
        classifier, stages, conditioned: see `MaskNetwork`.
        trunk: as for any mask network, or `"none"`: no image features.
        variant: `"siren"`, or `"fourier"` = random Fourier features (Tancik et al., NeurIPS 2020) and ReLU; None =
            siren for one image, and amortised, where siren learns noise (`docs/ablations.md`), fourier.
        nested: the scores do not depend on the area, so that a smaller mask lies inside a larger one and one pass
            serves all areas.
        width, depth: of the hidden layers.
        points: points a side that are evaluated, scores between them being bilinear; None = every pixel. Any number
            serves at any time: it is no part of what is learned.
        temperature: softness of the masks' border, in standard deviations of the scores.
        evidence: amortised, the weight of the class's evidence in the scores that training begins at. These are
            standardised, so that what is learned has to outweigh it: a smaller start learns sooner.
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
        evidence: float = 0.5,
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
        super().__init__(classifier, trunk, stages, conditioned)
        self.nested, self.points, self.temperature = nested, points, temperature
        # Sines of 30 times a sum make large steps of small ones.
        self.finetuning_lr = 3e-4 if variant == "siren" else 1e-3
        inputs = 2 if nested else 3
        if variant == "fourier":
            self.register_buffer("frequencies", 2 * math.pi * torch.randn(inputs, width // 2))
            inputs = 2 * (width // 2)
        self.again = depth // 2 if depth > 1 else None  # before which layer the input is given again
        sizes = [inputs, *(width + inputs * (layer == self.again) for layer in range(1, depth))]
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.head = nn.Linear(width, 1)
        if variant == "siren":
            self._initialise_siren()
        self.amortised = trunk != "none"
        if self.amortised:
            self._build_conditioning(width, depth, evidence)

    def _initialise_siren(self) -> None:
        for place, layer in enumerate([*self.layers, self.head]):
            fan = layer.in_features  # type: ignore[union-attr]
            bound = 1 / fan if place == 0 else math.sqrt(6 / fan) / OMEGA
            nn.init.uniform_(layer.weight, -bound, bound)  # type: ignore[arg-type]

    def _build_conditioning(self, width: int, depth: int, evidence: float) -> None:
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
        # A straight way from what is seen at a place to its score: sines of 30 times a modulated sum teach it slowly.
        self.direct = nn.Linear(code, 1)
        nn.init.normal_(self.direct.weight, std=0.02)
        if self.variant == "fourier":
            nn.init.normal_(self.head.weight, std=0.002)
        if self.evidence is not None:
            self.skip = evidence_skip(evidence)

    def choose_stages(self, shapes: Sequence[torch.Size]) -> list[int]:
        """The last map of each resolution from stride 8 on; of maps of one resolution, four a quarter apart."""
        last = len(shapes) - 1
        if len({shape[1:] for shape in shapes}) == 1:
            return sorted({round(last * part / 4) for part in (1, 2, 3, 4)})
        finest = min(self.classifier.input_size) / 8
        return sorted({shape[1:]: stage for stage, shape in enumerate(shapes) if min(shape[1:]) <= finest}.values())

    def decode(
        self, found: Features, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Scores `[B, A, h, w]`, each of mean 0 and standard deviation 1, for areas `[B, A]`.

        With `nested` they are the same for every area, and `A` is 1.

        Args:
            areas: None = `MAP_AREAS` for every image.
            size: height and width of the scores; None = `points` a side, or every pixel.
        """
        areas = map_areas(targets) if areas is None else areas
        height, width = size or ((self.points,) * 2 if self.points is not None else self.classifier.input_size)
        places = self._places(areas[:, :1] if self.nested else areas, height, width)
        code = self._code(found, targets, height, width)
        # With gradients every part's activations stay, however small it is.
        at_once = height * width if torch.is_grad_enabled() else max(1, AT_ONCE // places[..., 0, 0].numel())
        parts = [None] * math.ceil(height * width / at_once) if code is None else code.split(at_once, 2)
        rows = zip(places.split(at_once, 2), parts, strict=True)
        scores = torch.cat([self._scores(place, part) for place, part in rows], -1).float()
        if self.amortised and self.evidence is not None:
            evidence = self.skip(self.evidence(found.final, targets))
            scores = scores + F.interpolate(evidence, (height, width), mode="bilinear").flatten(2)
        spread, centre = torch.std_mean(scores, -1, keepdim=True)
        return ((scores - centre) / (spread + 1e-6)).unflatten(2, (height, width))

    def _places(self, areas: Tensor, height: int, width: int) -> Tensor:
        """The network's input at pixel centres: `[B, A, h·w, 2 or 3]`."""
        v, u = ((torch.arange(side, device=areas.device) + 0.5) * 2 / side - 1 for side in (height, width))
        grid = torch.stack([u.expand(height, -1), v[:, None].expand(-1, width)], -1).view(1, 1, -1, 2)
        places = grid.expand(*areas.shape, -1, -1)
        if self.nested:
            return places
        area = AREA_SCALE * (areas.logit() / 4)[..., None, None].expand(-1, -1, height * width, 1)
        return torch.cat([places, area], -1)

    def _code(self, found: Features, targets: Tensor, height: int, width: int) -> Tensor | None:
        """What image and class say of each place, `[B, 1, h·w, C]`; None for a network that reads no image."""
        if not self.amortised:
            return None
        size = found.stages[0].shape[-2:]
        maps = zip((*found.stages, found.final), self.norms, self.project, strict=True)
        parts = [F.interpolate(project(norm(x)), size, mode="bilinear") for x, norm, project in maps]
        x = torch.stack(parts).sum(0)
        if self.query is not None and self.modulate is not None:
            x = self.modulate(x, self.query(targets))
        x = F.interpolate(self.mix(x), (height, width), mode="bilinear")
        return x.flatten(2).transpose(1, 2).unsqueeze(1)

    def _scores(self, places: Tensor, code: Tensor | None) -> Tensor:
        """Scores `[B, A, N]` of inputs `[B, A, N, 2 or 3]`."""
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
        scores = self.head(x) if code is None else self.head(x) + self.direct(code)
        return scores.squeeze(-1)

    def masks(
        self,
        scores: Tensor,
        areas: Tensor | None = None,
        allowed: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Masks `[B, A, H, W]` of areas `[B, A]` on the visible image, from scores `[B, A or 1, h, w]`.

        Args:
            areas: None = `MAP_AREAS` for every image.
            allowed: `[B, 1, H, W]`, see `masks_of_area`.
            size: height and width of the masks; None = the classifier's input size.
        """
        areas = map_areas(scores) if areas is None else areas
        size = size or self.classifier.input_size
        scores = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)
        allowed = None if allowed is None else F.interpolate(allowed, size, mode="nearest")
        return masks_of_area(scores.expand(-1, areas.shape[1], -1, -1), areas, self.temperature, allowed)

    def upsample(self, logits: Tensor) -> Tensor:
        """The mean of the masks of `MAP_AREAS` `[B, 1, H, W]`, from the scores of these areas."""
        return self.masks(logits).mean(1, keepdim=True)


def map_areas(like: Tensor) -> Tensor:
    """`MAP_AREAS` for each row of `[B, …]`, on its device: float32 `[B, 16]`."""
    return torch.tensor(MAP_AREAS).to(like.device, non_blocking=like.device.type == "cuda").expand(len(like), -1)
