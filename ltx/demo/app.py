"""The Gradio app: components, what happens at each event, and how the server is limited."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ltx.checkpoints.loading import load
from ltx.data.finding import find_images
from ltx.demo.drawing import coloured, heat, photograph, shaded, summary
from ltx.demo.expiry import expiring
from ltx.demo.settings import DemoConfig
from ltx.demo.visit import LIKELIEST, Visit, begin, usable_methods
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

MODEL = "model"
"""The one queue of all events that run the model: its hooks and its memory belong to one visitor at a time."""

FIRST_METHODS = ("gradcam", "iia2", "integrated_gradients")
"""Methods that are selected for a comparison when the app opens."""

EXAMPLES = ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")

PLAIN = ["download", "fullscreen"]
"""Buttons of pictures; others would send them to another host."""

CSS = """
.gradio-container { max-width: 1100px !important; margin: auto; }
#classes { flex-wrap: wrap; gap: 8px; }
#classes button { flex: 1 1 150px; }
#summary textarea { font-weight: 600; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); }
#gallery .grid-wrap { min-height: 0; height: auto; max-height: none; }
"""


class App:
    """The handlers of the app's events.

    Args:
        explainer: shared by all visitors.
        config: see `DemoConfig`.
        folder: where downloads are written.
    """

    def __init__(self, explainer: MaskNetwork, config: DemoConfig, folder: Path) -> None:
        self.explainer, self.config, self.folder = explainer, config, folder
        self.methods = usable_methods(explainer.classifier)
        self.labels = [explainer.classifier.label(index) for index in range(explainer.classifier.num_classes)]

    # -- handlers -----------------------------------------------------------------------------------------------------

    def upload(self, file: dict[str, Any] | None, area: float) -> list[Any]:
        """Explain the uploaded file, given as its `path` and `orig_name`."""
        if file is None:
            return [None, *self._answer(None), *self._buttons(None), [], None]
        with _reported():
            visit = begin(self.explainer, Path(file["path"]), Path(file["orig_name"] or "the upload").name)
            visit.explain()
            self._set_area(visit, area)
        return [visit, *self._answer(visit), *self._buttons(visit), [], int(visit.shown.targets[0])]

    def choose(self, visit: Visit | None, target: int | None, area: float) -> list[Any]:
        """Explain another class."""
        visit = _present(visit)
        if target is None:
            return [gr.skip()] * (5 + LIKELIEST)
        with _reported():
            visit.explain(int(target))
            self._set_area(visit, area)
        return [visit, *self._answer(visit), *self._buttons(visit), []]

    def choose_likeliest(self, visit: Visit | None, place: int, area: float) -> list[Any]:
        """Explain the class of one of the buttons."""
        visit = _present(visit)
        if place >= len(visit.likeliest()):
            return [gr.skip()] * (6 + LIKELIEST)
        target = visit.likeliest()[place][0]
        return [*self.choose(visit, target, area), target]

    def refine(self, visit: Visit | None, area: float, progress: Any = gr.Progress()) -> Iterator[list[Any]]:  # noqa: B008
        """Finetune on this photograph. Drawing each step would take longer than the step, so only the last is drawn."""
        visit = _present(visit)
        steps = self.config.steps
        with _reported():
            for done in visit.refine(steps):
                progress((done, steps), desc="Refining", unit="steps")
                yield [visit, gr.skip(), gr.skip(), f"Refining: {done} of {steps} steps …"]
            self._set_area(visit, area)
        yield [visit, *self._answer(visit)]

    def stop(self, visit: Visit | None) -> None:
        if visit is not None:
            visit.stop.set()

    def at_area(self, visit: Visit | None, area: float) -> list[Any]:
        """Show the mask of another area."""
        visit = _present(visit)
        with _reported():
            self._set_area(visit, area)
        return [visit, *self._answer(visit)]

    def compare(self, visit: Visit | None, methods: list[str]) -> Iterator[list[tuple[np.ndarray, str]]]:
        visit = _present(visit)
        with _reported():
            drawn = [(heat(visit.shown), visit.shown.method)]
            yield drawn
            known = [method for method in methods if method in self.methods]
            for explanation in visit.other_methods(known, self.config.max_batch):
                drawn = [*drawn, (heat(explanation), explanation.method)]
                yield drawn

    def files(self, visit: Visit | None) -> list[Any]:
        """The picture and the arrays, as the commands write them."""
        if visit is None:
            return [gr.DownloadButton(interactive=False), gr.DownloadButton(interactive=False)]
        picture, arrays = visit.shown.save(tempfile.mkdtemp(dir=self.folder), ["explanation"])
        return [gr.DownloadButton(value=str(file), interactive=True) for file in (picture, arrays)]

    def _set_area(self, visit: Visit, area: float) -> None:
        """A new explanation has the mask of one fixed area; replace it with that of the slider, in percent."""
        if self.explainer.takes_areas:
            visit.explanation = visit.shown.at(area / 100)

    # -- what they return ---------------------------------------------------------------------------------------------

    def _answer(self, visit: Visit | None) -> list[Any]:
        """Image and overlay for the slider, the map, and the line of probabilities."""
        if visit is None:
            return [None, None, ""]
        explanation = visit.shown
        return [(photograph(explanation), shaded(explanation)), coloured(explanation), summary(explanation)]

    def _buttons(self, visit: Visit | None) -> list[Any]:
        found = [] if visit is None else visit.likeliest()
        target = None if visit is None else int(visit.shown.targets[0])
        buttons = [
            gr.Button(f"{label} {chance:.3f}", visible=True, variant="primary" if index == target else "secondary")
            for index, label, chance in found
        ]
        return buttons + [gr.Button(visible=False)] * (LIKELIEST - len(buttons))


@dataclass(frozen=True)
class Controls:
    """The components of the page that have events."""

    visit: gr.State
    upload: gr.Image
    answer: gr.ImageSlider
    heat_map: gr.Image
    line: gr.Textbox
    buttons: list[gr.Button]
    search: gr.Dropdown
    area: gr.Slider
    refine: gr.Button
    stop: gr.Button
    picture: gr.DownloadButton
    arrays: gr.DownloadButton
    methods: gr.CheckboxGroup
    run: gr.Button
    gallery: gr.Gallery


def build(app: App) -> gr.Blocks:
    """Lay out the page and connect its events."""
    seconds = 60 * app.config.keep_minutes
    with gr.Blocks(title="ltx", analytics_enabled=False) as page:
        _connect(app, _lay_out(app, gr.State(time_to_live=seconds)))
    page.queue(default_concurrency_limit=1, max_size=app.config.waiting, api_open=False)
    return page


def _lay_out(app: App, visit: gr.State) -> Controls:
    gr.Markdown("# Which pixels does the prediction rest on?")
    with gr.Row():
        with gr.Column():
            upload = gr.Image(
                label="Photograph: drop, paste, or take an example",
                sources=["upload", "clipboard"],
                type="filepath",
                image_mode=None,
                height=360,
                elem_id="upload",
            )
            examples = [str(file) for file in find_images("scikit-image") if file.name in EXAMPLES]
            gr.Examples(examples, inputs=upload, label="Examples", cache_examples=False)
        with gr.Column():
            answer = gr.ImageSlider(label="Photograph | explanation", elem_id="answer", format="png", type="numpy")
            heat_map = gr.Image(label="Map", elem_id="map", height=240, format="png", interactive=False, buttons=PLAIN)
    line = gr.Textbox(show_label=False, interactive=False, elem_id="summary", placeholder="No photograph yet")
    with gr.Row(elem_id="classes"):
        buttons = [gr.Button(visible=False, elem_id=f"class-{place}") for place in range(LIKELIEST)]
    choices = [(label, index) for index, label in enumerate(app.labels)]
    search = gr.Dropdown(choices, value=None, label="Any class", filterable=True, elem_id="search")
    by_area = app.explainer.takes_areas
    area = gr.Slider(2, 80, 20, step=1, label="Area kept, % of the image", visible=by_area, elem_id="area")
    with gr.Row():
        refine = gr.Button(f"Refine ({app.config.steps} steps)", variant="primary", elem_id="refine")
        stop = gr.Button("Stop", elem_id="stop")
        picture = gr.DownloadButton("Picture (.png)", interactive=False, elem_id="picture")
        arrays = gr.DownloadButton("Arrays (.npz)", interactive=False, elem_id="arrays")
    with gr.Accordion("Other methods for the same class", open=False):
        first = [method for method in FIRST_METHODS if method in app.methods]
        methods = gr.CheckboxGroup(app.methods, value=first, label="Methods", elem_id="methods")
        run = gr.Button("Compare", elem_id="compare")
        gallery = gr.Gallery(
            label="Maps", columns=4, elem_id="gallery", format="png", object_fit="contain", buttons=PLAIN
        )
    return Controls(
        visit,
        upload,
        answer,
        heat_map,
        line,
        buttons,
        search,
        area,
        refine,
        stop,
        picture,
        arrays,
        methods,
        run,
        gallery,
    )


def _connect(app: App, page: Controls) -> None:
    visit, search, area = page.visit, page.search, page.area
    # Gradio keeps a visit for `keep_minutes` after the last event that returns it, so all that change it do.
    shown, files = [visit, page.answer, page.heat_map, page.line], [page.picture, page.arrays]
    # One queue for everything that runs the model, so that visitors wait for each other.
    model: dict[str, Any] = {"concurrency_id": MODEL, "concurrency_limit": 1, "api_visibility": "private"}
    unqueued: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    save: dict[str, Any] = model | {"show_progress": "hidden"}
    outputs = [*shown, *page.buttons, page.gallery]
    # Without preprocessing, the file itself is handed over: reading it is not left to Gradio.
    page.upload.change(app.upload, [page.upload, area], [*outputs, search], preprocess=False, **model).then(
        app.files, visit, files, **save
    )
    for place, button in enumerate(page.buttons):
        button.click(app.choose_likeliest, [visit, gr.State(place), area], [*outputs, search], **model).then(
            app.files, visit, files, **save
        )
    search.input(app.choose, [visit, search, area], outputs, **model).then(app.files, visit, files, **save)
    page.refine.click(app.refine, [visit, area], shown, show_progress_on=[page.line], **model).then(
        app.files, visit, files, **save
    )
    page.stop.click(app.stop, visit, None, **unqueued)
    area.release(app.at_area, [visit, area], shown, **model).then(app.files, visit, files, **save)
    page.run.click(app.compare, [visit, page.methods], page.gallery, **model)


@contextmanager
def opened(config: DemoConfig) -> Iterator[gr.Blocks]:
    """The app, ready to launch; its files are deleted at the age of `keep_minutes`, and when the context ends.

    Raises:
        InputError: see `ltx.load`.
    """
    device = pick_device(config.device)
    explainer = load(config.checkpoint, device=device, trust=config.trust, **asdict(config.classifier))
    explainer.classifier.fold_norms()
    previous = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="ltx-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # the only way to tell Gradio
        try:
            page = build(App(explainer, config, Path(folder)))
            with expiring(Path(folder), 60 * config.keep_minutes):
                yield page
        finally:
            if previous is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = previous


def launch(page: gr.Blocks, config: DemoConfig, block: bool = True) -> str:
    """Serve the app; returns its address.

    Args:
        page: see `opened`.
        config: where it listens, and the largest upload.
        block: return only when the server ends.
    """
    _, address, _ = page.launch(
        server_name=config.host,
        server_port=config.port or None,
        max_file_size=int(config.upload_mb * 1e6),
        share=False,
        quiet=True,
        show_error=True,
        footer_links=[],
        css=CSS,
        prevent_thread_lock=True,
        ssr_mode=False,
    )
    print(f"ltx demo: {address}", flush=True)
    if block:
        page.block_thread()
    return str(address)


@contextmanager
def _reported() -> Iterator[None]:
    """Bad input becomes a message on the page, which shows messages as HTML."""
    try:
        yield
    except InputError as error:
        raise gr.Error(html.escape(str(error), quote=False), duration=10, print_exception=False) from error


def _present(visit: Visit | None) -> Visit:
    if visit is None:
        raise gr.Error("There is no photograph yet, or its time is over; drop or paste one", duration=8)
    return visit
