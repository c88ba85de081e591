"""A visitor of `ltx demo`, who uploads photographs and leaves, so that the server ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx


@contextlib.contextmanager
def visited(photos: Path) -> Iterator[None]:
    """Context in which the app's server ends after one visit, instead of serving until it is interrupted.

    The visitor opens the page and uploads each photograph. What the app answers is printed: the name of the photograph
    that it explained, or its message.
    """
    from ltx.demo import app

    apps: list[app.App] = []
    build, launch = app.build, app.launch

    def building(built: app.App) -> Any:
        apps.append(built)
        return build(built)

    def visit(page: Any, config: Any) -> None:
        address = launch(page, config, block=False)
        try:
            assert httpx.get(address, timeout=60).status_code == 200
            for file in sorted(photos.iterdir()):
                try:
                    apps[0].upload({"path": str(file), "orig_name": file.name}, 20)
                    print("explained", file.name)
                except app.gr.Error as error:
                    if file.name not in str(error):
                        raise AssertionError(f"{file.name} is not named: {error}") from error
                    print(error)
        finally:
            page.close(verbose=False)

    with mock.patch.object(app, "build", building), mock.patch.object(app, "launch", visit):
        yield
