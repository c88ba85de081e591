"""`ltx demo`: the web app."""

from __future__ import annotations

from ltx.demo.settings import DemoConfig
from ltx.runtime.extras import require


def demo(config: DemoConfig) -> None:
    """Serve the app until it is interrupted.

    Raises:
        InputError: Gradio is not installed, the port is taken, or the checkpoint cannot be loaded.
    """
    require("demo", "gradio")
    from ltx.demo.app import launch, opened  # an optional dependency
    from ltx.runtime.errors import InputError

    with opened(config) as page:
        try:
            launch(page, config)
        except OSError as error:
            raise InputError(f"port={config.port}: {error}; choose another one, or port=0") from error
