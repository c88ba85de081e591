"""Methods of an evaluation: explainers on modified classifiers."""

from __future__ import annotations

import torch

from ltx.evaluation.methods import rebuild
from tests.support.mask_networks import classifier_for, explainer_for, images_for


def test_an_earlier_checkpoint_is_rebuilt_with_the_evidence_that_it_was_loaded_with() -> None:
    classifier = classifier_for("vit_tiny_patch16_224", 32)
    explainer = explainer_for(classifier, values=False)
    explainer.training_config = {"explainer": {"values": False}}  # as `load` completes the file's settings
    again, images = rebuild(classifier, explainer), images_for(classifier)
    with torch.no_grad():
        assert torch.equal(again(images, 0), explainer(images, 0))
