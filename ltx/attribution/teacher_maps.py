"""Teacher maps: an attribution method's maps of a set of files, computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import stretched
from ltx.attribution.registry import METHODS
from ltx.attribution.support import check_method
from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.data.reading import ImageBatches
from ltx.data.stored_maps import StoredMaps
from ltx.runtime.errors import InputError


class TeacherMaps:
    """Makes one method's maps of one classifier's predictions: of whole pictures, squashed to its input size.

    Attributes:
        stored: the maps that are there, min–max stretched, each beside the class predicted for its picture. They are
            found by the classifier's fingerprint and precision, the method with its options, and the image's content.

    Args:
        folder: where the maps are kept; made where there is none. Several teachers may share it.
        classifier: the explained model.
        method: a name of `ltx.attribution.METHODS`.
        resolution: height and width of the stored maps; a ViT's map has 14 x 14 values of its own.
        options: of the method.

    Raises:
        InputError: an unknown method or option, or a method that does not work on the classifier.
    """

    def __init__(
        self, folder: str | Path, classifier: Classifier, method: str = "iia2", resolution: int = 56, **options: Any
    ) -> None:
        known = check_method(method, classifier, options)
        if resolution < 2:
            raise InputError(f"resolution={resolution}; give the height and width of the maps, 2 or more")
        self.classifier, self.method, self.resolution, self.options = classifier, method, resolution, options
        settings = {key: value for key, value in (known | options).items() if key != "max_batch"}
        explained = [classifier.fingerprint(), classifier.precision, list(classifier.input_size)]
        made_by = [*explained, METHODS[method].title, settings, resolution]
        self.stored = StoredMaps(folder, json.dumps(made_by, sort_keys=True, default=str))

    def precompute(
        self,
        paths: Sequence[str | Path],
        batch_size: int = 16,
        max_batch: int = 64,
        advance: Callable[[int], None] = lambda count: None,
    ) -> int:
        """Make the maps of these files that are not there; each is written as soon as its batch is done.

        Files that cannot be read are left out.

        Args:
            batch_size: images explained at once.
            max_batch: rows of one forward pass, see `ltx.attribution.attribute`.
            advance: is told how many files were done since it was last called.

        Returns:
            How many maps were made.
        """
        missing: list[Path] = []
        for path in dict.fromkeys(map(Path, paths)):
            if path in self.stored:
                advance(1)
            else:
                missing.append(path)
        made, batches = 0, ImageBatches(missing, self.classifier.input_size, batch_size)
        try:
            for names, images in batches:
                images = images.to(self.classifier.device)
                targets = explained_classes(self.classifier, images, None, max_batch)
                options = {"max_batch": max_batch} | self.options
                maps = attribute(self.method, self.classifier, images, targets, **options)
                side = (self.resolution, self.resolution)
                small = stretched(F.interpolate(maps, size=side, mode="area")).cpu()
                for name, values, target in zip(names, small[:, 0], targets.tolist(), strict=True):
                    self.stored.write(name, values, target)
                made += len(names)
                advance(len(names))
        except InputError:
            if len(batches.skipped) < len(missing):
                raise
            # Else only broken files are left over: whoever uses the images says what becomes of them.
        advance(len(batches.skipped))
        return made
