"""Which class a user means, by index or by name, and which of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


def test_targets_by_index_by_name_predicted_and_one_each(lite0: Classifier) -> None:
    logits = torch.zeros(2, 1000)
    logits[0, 7] = logits[1, 9] = 1
    for given, expected in [
        (None, [7, 9]),
        ("predicted", [7, 9]),
        (281, [281, 281]),
        ("281", [281, 281]),
        ("tabby", [281, 281]),
        ("Tabby Cat", [281, 281]),
        (["tiger cat", "predicted"], [282, 9]),
        ([3, "tench"], [3, 0]),
        (torch.tensor([5, 6]), [5, 6]),
        (np.array([5, 6]), [5, 6]),
        (np.int64(3), [3, 3]),
        (torch.tensor(3), [3, 3]),
        ("harp", [594, 594]),  # which a synonym of the harmonica is too
        ("partridge", [86, 86]),
        ("harmonica, mouth organ, harp, mouth harp", [593, 593]),
    ]:
        assert lite0.targets(given, logits).tolist() == expected, given


def test_names_may_be_any_listing(tiny_classifier: Classifier) -> None:
    for names in (np.array(["a", "b", "c"]), {0: "a", 1: "b", 2: "c"}.values()):
        assert Classifier(tiny_classifier.model, input_size=8, class_names=names).class_names == ["a", "b", "c"]


def test_target_classes_are_looked_up_once_and_keep_their_order(
    lite0: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(lite0, "class_index", lambda one: asked.append(one) or len(asked))
    assert lite0.classes(["tabby", "predicted", 7, "tabby", "7", 7]) == [1, "predicted", 2, 1, 3, 2]
    assert asked == ["tabby", 7, "7"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (1000, "target=1000 .*0 to 999"),
        ("-1", "target=-1 "),
        ("tabbi", "target='tabbi' is not a class of tf_efficientnet_lite0; did you mean .*tabby"),
        ("harpp", "did you mean harp, hare"),
        ([1, 2, 3], "3 targets for 2 images"),
        (torch.tensor([1]), "1 targets for 2 images"),
        ("crane", r"target='crane' is the name of several classes .*; give an index: 134 \(crane\), 517 \(crane\)"),
        ("maillot", "several classes .*: 638 .*, 639 "),
        ("panda", "several classes .*: 387 .*, 388 "),
        (torch.ones(2, 9, 9, 9), r"^target=.{20,60} is not a valid class.{0,60}$"),
        (True, "target=True is not a valid class"),
        ([1, 1.5], r"target=1\.5 is not a valid class"),
        ("²", "target='²' is not a class"),
    ],
)
def test_an_invalid_target_is_named(lite0: Classifier, given: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        lite0.targets(given, torch.zeros(2, 1000))


def test_every_label_is_its_own_class_or_reported_as_ambiguous(lite0: Classifier) -> None:
    labels = [lite0.label(index).lower() for index in range(1000)]
    several = {label for label in labels if labels.count(label) > 1}
    assert several == {"crane", "maillot", "cardigan"}
    assert all(lite0.class_index(label) == index for index, label in enumerate(labels) if label not in several)
    for label in several:
        with pytest.raises(InputError, match=f"give an index: {labels.index(label)} "):
            lite0.class_index(label)
