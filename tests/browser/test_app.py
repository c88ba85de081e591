"""The app in a browser: upload, another class, refine, stop, download; and visitors who do what they should not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx.data.finding import find_images
from ltx.demo.settings import DemoConfig

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="the extra [demo] is not installed")

SUMMARY = "#summary textarea"
CONFIG = DemoConfig(port=0, device="cpu", steps=5, upload_mb=3)


def waited(holds: Callable[[], bool], seconds: float = 40) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ltx.demo.app import launch, opened

    with opened(CONFIG) as page:
        yield launch(page, CONFIG, block=False)
        page.close()


@pytest.fixture
def app(address: str, open_page: Any) -> Any:
    page = open_page()
    page.goto(address)
    page.wait_for_selector("#upload input[type=file]", state="attached")
    return page


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
    app.fill("#search input", "lynx")
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
    other = open_page()
    other.goto(address)
    other.wait_for_selector("#upload input[type=file]", state="attached")
    give(other, photo("rocket.jpg"))
    says(other, "one forward pass")


def test_two_uploads_at_the_same_time(address: str, open_page: Any) -> None:
    pages = [open_page(), open_page()]
    for page in pages:
        page.goto(address)
        page.wait_for_selector("#upload input[type=file]", state="attached")
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
    app.get_by_text("is not an image").first.wait_for(timeout=30_000)
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


def test_uploads_are_deleted(browser: Any, tmp_path: Path) -> None:
    from ltx.demo.app import launch, opened

    config = DemoConfig(port=0, device="cpu", keep_minutes=0.1)
    with opened(config) as blocks:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        page = browser.new_page()
        page.goto(launch(blocks, config, block=False))
        page.wait_for_selector("#upload input[type=file]", state="attached")
        give(page, photo("chelsea.png"))
        says(page, "Egyptian cat")
        assert list(folder.rglob("chelsea*"))
        assert waited(lambda: not list(folder.rglob("chelsea*")), 60)
        page.close()
        blocks.close()
    assert not folder.exists()


def test_a_phone_shows_nothing_beyond_its_edge(address: str, open_page: Any) -> None:
    page = open_page(390, 844, color_scheme="dark")
    page.goto(address)
    page.wait_for_selector("#upload input[type=file]", state="attached")
    give(page, photo("chelsea.png"))
    says(page, "one forward pass")
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
