"""A Hugging Face Space: the app of `ltx demo`. Set the variables CHECKPOINT and STEPS in the Space's settings."""

import os

from ltx.demo.app import launch, opened
from ltx.demo.settings import DemoConfig

config = DemoConfig(
    checkpoint=os.environ.get("CHECKPOINT", "tf_efficientnet_lite0"),
    steps=int(os.environ.get("STEPS", "25")),
    host="0.0.0.0",
    port=int(os.environ.get("PORT", "7860")),
)
with opened(config) as page:
    launch(page, config)
