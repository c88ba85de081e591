"""The app in a browser: upload, another class, refine, stop, download; and visitors who do what they should not."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx.data.finding import find_images
from ltx.demo.settings import DemoConfig
from tests.export.test_graph import small

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="the extra [demo] is not installed")

from ltx.demo.app import EXAMPLES, FIRST_METHODS  # noqa: E402

SUMMARY = "#summary textarea"
CONFIG = DemoConfig(port=0, device="cpu", steps=5, upload_mb=3)


def waited(holds: Callable[[], bool], seconds: float = 40) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


@contextmanager
def served(config: DemoConfig) -> Iterator[str]:
    """The address of a running app."""
    from ltx.demo.app import launch, opened

    with opened(config) as page:
        yield launch(page, config, block=False)
        page.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(CONFIG) as found:
        yield found


def visited(page: Any, address: str) -> Any:
    page.goto(address)
    page.wait_for_selector("#upload input[type=file]", state="attached")
    return page


@pytest.fixture
def app(address: str, open_page: Any) -> Any:
    return visited(open_page(), address)


def photo(name: str) -> str:
    return str(next(file for file in find_images("scikit-image") if file.name == name))


def give(page: Any, file: str) -> None:
    page.set_input_files("#upload input[type=file]", file)


def says(page: Any, text: str, seconds: float = 40) -> str:
    assert waited(lambda: text in page.input_value(SUMMARY), seconds), page.input_value(SUMMARY)
    return page.input_value(SUMMARY)


def test_a_visit(app: Any, tmp_path: Path) -> None:
    begun = time.perf_counter()
    give(app, photo("chelsea.png"))
    assert says(app, "one forward pass").startswith("Egyptian cat: probability 0.7")
    first = time.perf_counter() - begun
    app.click("#class-1")
    assert says(app, "tiger cat").endswith("(one forward pass)")
    begun = time.perf_counter()
    app.click("#refine")
    says(app, "Refining: 1 of 5")
    says(app, "(5 steps)")
    refining = time.perf_counter() - begun
    app.click("#search input")
    app.keyboard.press("Control+a")
    app.keyboard.type("lynx")  # the list follows keys, not a value that is set
    app.get_by_role("option", name="lynx", exact=True).click()
    says(app, "lynx: probability")
    assert waited(lambda: app.is_enabled("#arrays"))
    time.sleep(1)  # the files of this explanation follow its picture
    with app.expect_download() as download:
        app.click("#arrays")
    with np.load(download.value.path()) as stored:
        assert stored["image"].shape == (224, 224, 3)
        assert stored["mask"].shape == (224, 224)
    with app.expect_download() as download:
        app.click("#picture")
    with Image.open(download.value.path()) as picture:
        assert picture.width > 2 * picture.height
    print(f"\napp: first answer {first:.2f} s, 5 steps in {refining:.2f} s")


def test_a_photograph_can_be_dropped_pasted_or_chosen(address: str, open_page: Any) -> None:
    page = visited(open_page(permissions=["clipboard-read", "clipboard-write"]), address)
    content = list(Path(photo("coffee.png")).read_bytes())
    transfer = page.evaluate_handle(
        """(bytes) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" })); return data; }""",
        content,
    )
    page.dispatch_event("#upload button", "drop", {"dataTransfer": transfer})
    says(page, "espresso: ")
    page.click("img[src*='chelsea.png']")
    says(page, "Egyptian cat: ")
    page.evaluate(
        """async (bytes) => { const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
        await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]); }""",
        content,
    )
    page.click("#upload button[aria-label='Paste from clipboard']")
    says(page, "espresso: ")


def test_other_methods_are_compared_for_the_same_class(app: Any) -> None:
    give(app, photo("chelsea.png"))
    says(app, "one forward pass")
    app.get_by_text("Other methods for the same class").click()
    app.click("#compare")
    captions = app.locator("#gallery .caption-label")
    assert waited(lambda: captions.count() == 1 + len(FIRST_METHODS))
    assert captions.all_text_contents()[1:] == list(FIRST_METHODS)


def test_an_explainer_of_any_area_has_a_slider(open_page: Any) -> None:
    with served(replace(CONFIG, checkpoint="tf_efficientnet_lite0_inr")) as address:
        page = visited(open_page(), address)
        give(page, photo("coffee.png"))
        says(page, "mask area 0.20")
        page.fill("#area input[type=number]", "60")
        page.keyboard.press("Tab")
        assert says(page, "mask area 0.6").startswith("espresso: ")
        page.click("#refine")
        says(page, "(5 steps)", 90)
        page.close()


def test_only_this_machine_reaches_it(address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), 5).close()
    with pytest.raises(OSError, match="refused"):  # a server on 0.0.0.0 answers at each of its addresses
        socket.create_connection(("127.0.0.2", port), 5).close()


def test_names_of_classes_are_shown_and_never_run(open_page: Any, tmp_path: Path) -> None:
    from ltx.demo.app import App, build, launch

    explainer = small()
    name = "<img src=x onerror='window.injected=1'>"
    explainer.classifier.class_names = [f"{name}{index}" for index in range(explainer.classifier.num_classes)]
    blocks = build(App(explainer, CONFIG, tmp_path))
    page = visited(open_page(), launch(blocks, CONFIG, block=False))
    give(page, photo("coffee.png"))
    assert says(page, "one forward pass").startswith(name)
    assert name in page.inner_text("#class-0")
    page.click("#search input")
    page.get_by_role("option").first.wait_for()
    assert page.evaluate("() => window.injected") is None
    page.close()
    blocks.close()


def test_refining_can_be_stopped(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG, "steps", 400)
    give(app, photo("coffee.png"))
    says(app, "espresso: ")
    app.click("#refine")
    says(app, "Refining: 2 of 400")
    app.click("#stop")
    text = says(app, " steps)")
    assert 2 < int(text.rpartition("(")[2].split()[0]) < 200


def test_a_visitor_who_leaves_frees_the_model(app: Any, address: str, open_page: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(CONFIG, "steps", 5000)
    give(app, photo("coffee.png"))
    says(app, "espresso: ")
    app.click("#refine")
    says(app, "Refining: 1 of 5000")
    app.close()
    running = [thread for thread in threading.enumerate() if thread.name == "refinement"]
    assert waited(lambda: not any(thread.is_alive() for thread in running))
    other = visited(open_page(), address)
    give(other, photo("rocket.jpg"))
    says(other, "one forward pass")


def test_two_uploads_at_the_same_time(address: str, open_page: Any) -> None:
    pages = [visited(open_page(), address) for _ in range(2)]
    for page, name in zip(pages, ("coffee.png", "chelsea.png"), strict=True):
        give(page, photo(name))
    assert says(pages[0], "one forward pass").startswith("espresso")
    assert says(pages[1], "one forward pass").startswith("Egyptian cat")
    pages[0].click("#class-1")
    says(pages[0], "one forward pass")
    assert pages[1].input_value(SUMMARY).startswith("Egyptian cat")


def test_uploads_that_are_no_photographs(app: Any, tmp_path: Path) -> None:
    name = "<img src=x onerror='window.injected=1'>.jpg"
    (tmp_path / name).write_text("not a picture")
    give(app, str(tmp_path / name))
    app.get_by_text(f"{name} is not an image").first.wait_for(timeout=30_000)
    assert app.evaluate("() => window.injected") is None
    assert app.input_value(SUMMARY) == ""


def test_sixty_megapixels_are_explained(app: Any, tmp_path: Path) -> None:
    Image.new("RGB", (10_000, 6_000), (200, 80, 40)).save(tmp_path / "large.jpg", quality=30)
    assert (tmp_path / "large.jpg").stat().st_size < 3e6
    give(app, str(tmp_path / "large.jpg"))
    says(app, "one forward pass", 60)


def test_uploads_over_the_limit_are_refused(address: str, tmp_path: Path) -> None:
    import httpx

    content = os.urandom(4_000_000)
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.jpg", content)}, timeout=30)
    assert answer.status_code == 413, answer.text


def test_uploads_results_and_downloads_are_deleted(open_page: Any, tmp_path: Path) -> None:
    with Image.open(photo("chelsea.png")) as picture:
        picture.crop((0, 0, 300, 300)).save(tmp_path / "upload.png")  # an example itself is the app's own file
    with served(replace(CONFIG, keep_minutes=0.2)) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        own = set(folder.rglob("*"))
        assert {path.name for path in own} >= set(EXAMPLES)
        (folder / "cut off").write_bytes(b"an upload whose visitor went away")
        page = visited(open_page(), address)
        give(page, str(tmp_path / "upload.png"))
        says(page, "one forward pass")
        assert waited(lambda: list(folder.rglob("explanation.npz")))
        assert list(folder.rglob("upload.png"))
        assert waited(lambda: set(folder.rglob("*")) == own, 60)
        page.close()
    assert not folder.exists()


def test_a_phone_shows_nothing_beyond_its_edge(address: str, open_page: Any) -> None:
    page = visited(open_page(390, 844, color_scheme="dark"), address)
    give(page, photo("chelsea.png"))
    says(page, "one forward pass")
    page.get_by_text("Other methods for the same class").click()
    page.click("#compare")
    assert waited(lambda: page.locator("#gallery .caption-label").count() == 1 + len(FIRST_METHODS))
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
