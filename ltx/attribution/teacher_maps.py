"""Teacher maps: the maps of an attribution method for a set of files, computed once and stored on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import rescaled
from ltx.attribution.registry import METHODS
from ltx.attribution.support import check_method
from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.classifier.identity import results_key
from ltx.data.image_batches import ImageBatches
from ltx.data.stored_maps import StoredMaps
from ltx.runtime.errors import InputError


class TeacherMaps:
    """Computes and stores the maps that a method gives for the predictions of a classifier.

    Images are resized to the classifier's input size without cropping.

    Args:
        folder: folder of the stored maps; created if it does not exist. Several teachers may share it.
        classifier: the explained model.
        method: a name of `ltx.attribution.METHODS`.
        resolution: height and width of the stored maps (the map of a ViT has only 14 x 14 distinct values).
        options: options of the method.

    Attributes:
        stored: the stored maps, min-max normalised, each with the class predicted for its image. The key of a map
            contains the classifier's fingerprint and precision, the method and its options, and the image content.

    Raises:
        InputError: unknown method or option, or a method that does not work on the classifier.
    """

    def __init__(
        self, folder: str | Path, classifier: Classifier, method: str = "iia2", resolution: int = 56, **options: Any
    ) -> None:
        defaults = check_method(method, classifier, options)
        if resolution < 2:
            raise InputError(f"resolution={resolution}; give the height and width of the maps, 2 or more")
        self.classifier, self.method, self.resolution, self.options = classifier, method, resolution, options
        settings = {key: value for key, value in (defaults | options).items() if key != "max_batch"}
        key = [*results_key(classifier), METHODS[method].title, settings, resolution]
        self.stored = StoredMaps(folder, json.dumps(key, sort_keys=True, default=str))

    def precompute(
        self,
        paths: Sequence[str | Path],
        batch_size: int = 16,
        max_batch: int = 64,
        advance: Callable[[int], None] = lambda count: None,
    ) -> int:
        """Compute the missing maps of these files; maps are written after each batch.

        Files that cannot be read are skipped.

        Args:
            paths: image files.
            batch_size: number of images per batch.
            max_batch: maximum batch size of a forward pass, see `ltx.attribution.attribute`.
            advance: progress callback; receives the number of files completed since the last call.

        Returns:
            Number of maps that were computed.
        """
        missing: list[Path] = []
        for path in dict.fromkeys(map(Path, paths)):
            if path in self.stored:
                advance(1)
            else:
                missing.append(path)
        computed, batches = (
            0,
            ImageBatches(missing, self.classifier.input_size, batch_size, channels=self.classifier.channels),
        )
        try:
            for names, images in batches:
                images = images.to(self.classifier.device)
                targets = explained_classes(self.classifier, images, None, max_batch)
                options = {"max_batch": max_batch} | self.options
                maps = attribute(self.method, self.classifier, images, targets, **options)
                side = (self.resolution, self.resolution)
                small = rescaled(F.interpolate(maps, size=side, mode="area")).cpu()
                for name, values, target in zip(names, small[:, 0], targets.tolist(), strict=True):
                    self.stored.write(name, values, target)
                computed += len(names)
                advance(len(names))
        except InputError:
            if len(batches.skipped) < len(missing):
                raise
            # All missing files are unreadable: the caller that uses the images reports them.
        advance(len(batches.skipped))
        return computed
