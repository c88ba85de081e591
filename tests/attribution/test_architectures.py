"""Every method on every kind of timm model that it claims, with random weights and small inputs."""

import pytest
import torch

from ltx import Classifier
from ltx.attribution.attribute import attribute
from ltx.attribution.registry import METHODS
from ltx.attribution.support import supported_methods

TINY = {
    "iia": {"steps": 1},
    "iia2": {"steps": 1},
    "iia3": {"steps": 1},
    "dix2": {"steps": 1},
    "dix3": {"steps": 1},
    "integrated_gradients": {"steps": 2},
    "gradient_shap": {"samples": 2},
    "occlusion": {"window": 32, "stride": 32},
    "rise": {"masks": 2, "cells": 4},
    "inr": {"steps": 1, "areas": 2},
    "extremal_perturbation": {"steps": 1, "areas": (0.1, 0.2)},
}
ATTENTION = {"attention_rollout", "gradient_rollout", "gae"}
FEATURES = {"gradcam", "gradcam++", "layercam"}
PATHS = {"iia", "iia2", "iia3"}
DIX = {"dix2", "dix3"}
PIXELS = {"integrated_gradients", "gradient_shap", "occlusion", "rise"}
FITTED = {"inr", "extremal_perturbation"}
VIT = ATTENTION | FEATURES | PATHS | DIX | PIXELS | FITTED
CNN = VIT - ATTENTION
ONE_GRID = CNN  # tokens of one grid without usable attention: their blocks are the layers

# name, input size, options, the methods that must work
QUICK = [
    ("resnet18", 64, CNN),
    ("mobilenetv3_small_050", 64, CNN),
    ("convnext_atto", 64, CNN),
    ("vit_tiny_patch16_224", (48, 64), VIT),
    ("deit_tiny_distilled_patch16_224", 48, VIT),
    ("eva02_tiny_patch14_224", 56, VIT),
    ("xcit_nano_12_p16_224", 64, ONE_GRID),
]
SLOW = [
    ("resnetv2_50", 64, CNN),
    ("seresnext26d_32x4d", 64, CNN),
    ("densenet121", 64, CNN),
    ("regnety_002", 64, CNN),
    ("convnextv2_atto", 64, CNN),
    ("tf_efficientnet_lite0", 64, CNN),
    ("efficientnet_b0", 64, CNN),
    ("mobilenetv2_035", 64, CNN),
    ("vgg11_bn", 64, CNN),
    ("ghostnet_050", 64, CNN),
    ("repvgg_a0", 64, CNN),
    ("dla34", 64, CNN),
    ("hrnet_w18_small", 64, CNN),
    ("rexnet_100", 64, CNN),
    ("inception_v3", 128, CNN),
    ("poolformer_s12", 64, CNN),
    ("fastvit_t8", 64, CNN),
    ("edgenext_xx_small", 64, CNN),
    ("mobilevit_xxs", 64, CNN),
    ("pvt_v2_b0", 64, CNN),
    ("coatnet_nano_rw_224", 224, CNN),
    ("swin_tiny_patch4_window7_224", 224, CNN),
    ("swinv2_tiny_window8_256", 256, CNN),
    ("mambaout_femto", 64, CNN),
    ("volo_d1_224", 64, CNN - DIX),  # maps of two resolutions, DIX takes three
    ("lambda_resnet26t", 64, CNN),
    ("mixer_s32_224", 224, ONE_GRID),
    ("cait_xxs24_224", 64, ONE_GRID),
    ("vit_small_patch32_224", 96, VIT),
    ("vit_small_patch8_224", (32, 48), VIT),
    ("vit_small_patch14_reg4_dinov2", 56, VIT),
    ("deit3_small_patch16_224", 48, VIT),
    ("vit_medium_patch16_gap_240", 64, VIT),
    ("vit_base_patch16_siglip_224", 48, VIT),
    ("vit_relpos_small_patch16_224", 64, VIT),
    ("beit_base_patch16_224", 48, VIT),
    ("vit_srelpos_small_patch16_224", (48, 64), VIT),
    ("vit_pwee_patch16_reg1_gap_256", 64, VIT),
]
CASES = [pytest.param(*case, id=case[0]) for case in QUICK]
CASES += [pytest.param(*case, id=case[0], marks=pytest.mark.slow) for case in SLOW]


def test_there_are_enough_of_them():
    assert len({case[0] for case in QUICK + SLOW}) >= 25


@pytest.mark.parametrize(("name", "size", "methods"), CASES)
def test_every_claimed_method_runs(name, size, methods):
    torch.manual_seed(0)
    classifier = Classifier(name, weights="random", num_classes=4, input_size=size)
    images = torch.rand(2, 3, *classifier.input_size)
    assert set(supported_methods(classifier)) == methods, sorted(methods ^ set(supported_methods(classifier)))
    for method in METHODS:
        if method in methods:
            maps = attribute(method, classifier, images, 1, max_batch=4, **TINY.get(method, {}))
            assert maps.shape == (2, 1, *classifier.input_size), method
            assert maps.isfinite().all(), method
