"""The model card of a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from ltx.pretraining.model_card import model_card


@pytest.mark.parametrize(("share", "text"), [("0.002", "0.2% held out"), ("0.2", "20% held out")])
def test_a_small_share_of_held_out_images_is_not_rounded_to_none(config_for: Any, share: str, text: str) -> None:
    config = config_for("run", f"data.val_share={share}")
    explainer = config.explainer.build(config.classifier.build())
    assert f"`{text}`" in model_card(config, explainer, {}, 1)
