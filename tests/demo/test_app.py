"""The app without a browser."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx.demo.settings import DemoConfig
from ltx.demo.visit import Visit
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.settings import LoadedClassifierConfig
from ltx.runtime.errors import InputError
from tests.export.test_graph import small
from tests.support.small_checkpoints import OTHER_HEAD, own_checkpoint

pytest.importorskip("gradio", reason="the extra [demo] is not installed")

import gradio
from gradio.state_holder import SessionState

from ltx.demo import app


class Visitor:
    """A visitor without a browser: events of the page, and what Gradio keeps for the visitor."""

    def __init__(self, folder: Path, explainer: Any) -> None:
        photograph = folder / "photo.png"
        noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photograph)
        self.file = {"path": str(photograph), "orig_name": "photo.png"}
        self.page = app.build(app.App(explainer, DemoConfig(steps=2), folder))
        self.state = SessionState(self.page)

    def does(self, handler: str, *values: Any) -> list[Any]:
        """Handle the first event of a handler to its end; returns the last outputs."""
        (event, *_) = (fn for fn in self.page.fns.values() if fn.name == handler)

        async def handled() -> list[Any]:
            iterator: Any = None
            outputs: list[Any] = []
            while True:
                result = await self.page.process_api(event, list(values), state=self.state, iterator=iterator)
                iterator = result.get("iterator")
                if not result["is_generating"]:
                    return outputs or result["data"]
                outputs = result["data"]

        return asyncio.run(handled())

    @property
    def kept(self) -> list[tuple[Any, Any]]:
        """Each visit that Gradio keeps, and since when."""
        return [
            (value, self.state._state_ttl[key][1])
            for key, value in self.state.state_data.items()
            if isinstance(value, Visit)
        ]


EVENTS: dict[str, tuple[Any, ...]] = {
    "choose": (None, 3, 60),
    "choose_likeliest": (None, None, 60),
    "refine": (None, 60),
    "at_area": (None, 60),
}


@pytest.mark.parametrize("event", EVENTS)
def test_each_change_restarts_the_time_of_the_visit_and_has_the_area_of_the_slider(tmp_path: Path, event: str) -> None:
    visitor = Visitor(tmp_path, small(INRExplainer))
    visitor.does("upload", visitor.file, 40)
    ((visit, since),) = visitor.kept
    assert float(visit.shown.mask.mean()) == pytest.approx(0.4, abs=0.02)
    visitor.does(event, *EVENTS[event])
    ((after, later),) = visitor.kept
    assert after is visit
    assert later > since
    assert float(visit.shown.mask.mean()) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("event", [*EVENTS, "compare"])
def test_a_visit_whose_time_is_over_says_so(tmp_path: Path, event: str) -> None:
    visitor = Visitor(tmp_path, small())
    with pytest.raises(gradio.Error, match="There is no photograph"):
        visitor.does(event, *EVENTS.get(event, (None, [])))


@pytest.mark.parametrize("event", ["choose", "choose_likeliest"])
def test_another_class_removes_the_maps_of_the_last_one(tmp_path: Path, event: str) -> None:
    visitor = Visitor(tmp_path, small())
    visitor.does("upload", visitor.file, 20)
    (outputs,) = {tuple(fn.outputs) for fn in visitor.page.fns.values() if fn.name == event}
    (place,) = (place for place, output in enumerate(outputs) if output.elem_id == "gallery")
    assert visitor.does(event, *EVENTS[event])[place] == []


def test_the_settings_of_the_classifier_are_those_of_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "build", lambda built: built)
    checkpoint = str(own_checkpoint(tmp_path / "checkpoint"))
    config = DemoConfig(checkpoint=checkpoint, classifier=LoadedClassifierConfig(**OTHER_HEAD), device="cpu")
    with pytest.raises(InputError, match="if you trust it, set trust=true"), app.opened(config):
        pass
    with app.opened(replace(config, trust=True)) as opened:
        assert opened.labels == ["cat", "dog", "owl"]
        assert opened.explainer.classifier.head == "sigmoid"
