"""Segmentation and pointing metrics: closed form, and agreement with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from ltx import InputError
from ltx.metrics.localisation import (
    F1,
    AveragePrecision,
    EnergyPointingGame,
    MeanIntersectionOverUnion,
    PixelAccuracy,
    PointingGame,
    average_precision,
    positive_share,
    predicted_object,
)
from ltx.metrics.registry import PROTOCOLS

# Mean 0.25: the two 0.4 and the 0.9 are above it. The object is the right column.
MAP = torch.tensor([[[[0.0, 0.4], [0.9, 0.4], [0.0, 0.0], [0.2, 0.1]]]])
OBJECT = torch.tensor([[[[False, True], [False, True], [False, True], [False, True]]]])


def score(metric, **measured):
    metric.update(**measured)
    return float(metric.compute())


def test_segmentation_in_closed_form():
    # The mean is 0.25: 3 pixels are predicted, 2 of them correctly; 2 are missed; 3 are true negatives.
    assert predicted_object(MAP).flatten().tolist() == [False, True, True, True, False, False, False, False]
    assert score(PixelAccuracy(), maps=MAP, objects=OBJECT) == pytest.approx(100 * 5 / 8)
    assert score(MeanIntersectionOverUnion(), maps=MAP, objects=OBJECT) == pytest.approx(100 * (2 / 5 + 3 / 6) / 2)
    assert score(F1(), maps=MAP, objects=OBJECT) == pytest.approx(100 * 2 * 2 / (3 + 4))
    # Thresholds: 0.9 (no positive), 0.4 (2 of 3), 0.2 (none), 0.1 (3 of 5), 0 (4 of 8).
    assert score(AveragePrecision(), maps=MAP, objects=OBJECT) == pytest.approx(
        100 * (0.5 * 2 / 3 + 0.25 * 3 / 5 + 0.25 * 4 / 8), rel=1e-6
    )


def test_pooled_iou_is_not_the_mean_over_images():
    maps = torch.cat([MAP, MAP.flip(3)])
    objects = torch.cat([OBJECT, torch.ones_like(OBJECT)])
    metric = MeanIntersectionOverUnion()
    metric.update(maps=maps, objects=objects)
    # Second image: all object; 3 true positives, 5 missed.
    assert float(metric.compute()) == pytest.approx(100 * ((2 + 3) / (5 + 8) + 3 / (6 + 5)) / 2)
    assert metric.scores(metric.all_rows()).tolist() == pytest.approx([45.0, 100 * (3 / 8 + 0) / 2])


def test_a_constant_map_predicts_no_object():
    constant = torch.full_like(MAP, 3.3)
    assert not predicted_object(constant).any()
    assert score(F1(), maps=constant, objects=OBJECT) == 0.0
    assert score(AveragePrecision(), maps=constant, objects=OBJECT) == pytest.approx(50.0)


@pytest.mark.parametrize("levels", [3, 1000])
def test_agreement_with_scikit_learn(levels):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(levels, (6, 1, 16, 16), generator=generator).float()  # with 3 levels most values are tied
    objects = torch.rand(6, 1, 16, 16, generator=generator) < 0.3
    flat = maps.flatten(1).numpy(), objects.flatten(1).numpy()
    expected = [average_precision_score(truth, scores) for scores, truth in zip(*flat, strict=True)]
    np.testing.assert_allclose(average_precision(maps.flatten(1), objects.flatten(1)).numpy(), expected, atol=1e-12)
    predicted = predicted_object(maps).flatten(1).numpy()
    f1 = np.mean([f1_score(truth, guess) for truth, guess in zip(flat[1], predicted, strict=True)])
    assert score(F1(), maps=maps, objects=objects) == pytest.approx(100 * f1, rel=1e-5)
    iou = jaccard_score(flat[1].ravel(), predicted.ravel(), average="macro")
    assert score(MeanIntersectionOverUnion(), maps=maps, objects=objects) == pytest.approx(100 * iou, rel=1e-5)


def test_a_map_with_nan_has_no_highest_pixel():
    metric = PointingGame()
    maps = torch.rand(2, 1, 4, 4)
    maps[0, 0, 1, 1] = torch.nan
    metric.update(maps=maps, near_objects=torch.ones(2, 1, 4, 4), targets=torch.tensor([0, 1]))
    assert metric.scores(metric.all_rows()).isnan().tolist() == [True, False]


def test_pointing_uses_the_first_of_equal_maxima_and_averages_over_classes():
    maps = torch.zeros(4, 1, 2, 2)
    maps[0, 0, 0, 0] = maps[0, 0, 1, 1] = 1.0
    maps[1, 0, 1, 1] = 1.0
    maps[2, 0, 1, 1] = 1.0
    near = torch.zeros(4, 1, 2, 2, dtype=torch.bool)
    near[:, 0, 1, 1] = True
    near[3, 0, 0, 0] = True
    targets = torch.tensor([7, 7, 7, 9])
    # Hits: no (the first maximum), yes, yes, yes (a constant map points at the first pixel). Class 7: 2/3, class 9: 1.
    metric = PointingGame()
    metric.update(maps=maps, near_objects=near, targets=targets)
    assert metric.scores(metric.all_rows()).tolist() == [0.0, 100.0, 100.0, 100.0]
    assert float(metric.compute()) == pytest.approx(100 * (2 / 3 + 1) / 2)
    # A resample without class 9 averages the classes it contains.
    assert metric.aggregate(
        metric.all_rows().double(), torch.tensor([[1.0, 2, 0, 0]]).double()
    ).tolist() == pytest.approx([100 * 2 / 3])


def test_energy_is_the_share_of_the_positive_part():
    maps = torch.tensor([[[[1.0, 3.0], [-8.0, 0.0]]], [[[-1.0, -2.0], [-3.0, -1.0]]]])
    inside = torch.tensor([[[[False, True], [True, False]]]]).expand(2, -1, -1, -1)
    assert positive_share(maps, inside).tolist() == pytest.approx(
        [0.75, 0.5]
    )  # a map without a positive part is treated as constant
    assert score(EnergyPointingGame(), maps=maps, objects=inside) == pytest.approx(62.5)


def test_missing_object_masks_raise_an_error(make_batch, red_sum, red_image, red):
    with pytest.raises(InputError, match="masks=FOLDER"):
        PROTOCOLS["localisation"]().measure(
            red_sum, make_batch(red_sum, red_image, torch.tensor([0])), red, {}, lambda *_: red
        )
