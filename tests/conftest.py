"""Classifiers and images that many tests share."""

import os
import time
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.finetuning.parameter_copies import Copies

PROJECT = Path(__file__).parent.parent
SHARED_DATA = PROJECT.parent / "shared" / "data"

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(4, torch.get_num_threads()))  # more threads do not speed up small tensors


NO_SHARED_DATA = "needs the photographs and weights in ../shared/data, which are not part of the project"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and weights; the project works without them."""
    if not (SHARED_DATA / "MANIFEST.md").is_file():
        pytest.skip(NO_SHARED_DATA)
    return SHARED_DATA


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests lacked the shared data."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_SHARED_DATA in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"skipped {count}: {NO_SHARED_DATA}")


@pytest.fixture(params=[False, True], ids=["in turn", "at once"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of an explainer one after the other, as on a CPU, and in one batched pass, as on a GPU."""
    monkeypatch.setattr(Copies, "__init__", partialmethod(Copies.__init__, batched=request.param))


@pytest.fixture(scope="session")
def lite0() -> Classifier:
    """EfficientNet-Lite0 with its real weights, from the package; no network."""
    return Classifier()


@pytest.fixture(scope="session")
def deit_tiny(shared_data: Path) -> Classifier:
    """DeiT-Tiny with its real weights."""
    weights = shared_data / "weights" / "deit_tiny_patch16_224.safetensors"
    return Classifier("deit_tiny_patch16_224", weights=weights)


class Halves(nn.Module):
    """Three logits of an image: 4 × the mean of its left half, 4 × the mean of its right half, and 1.

    Linear, so that gradients, attributions and perturbation curves can be worked out by hand: at 8×8 pixels the
    gradient of logit 0 is 4 / (3·8·4) = 1/24 on the left and 0 on the right.
    """

    def forward(self, images: Tensor) -> Tensor:
        left, right = images.chunk(2, dim=3)
        halves = torch.stack([left.mean((1, 2, 3)), right.mean((1, 2, 3))], 1) * 4
        return torch.cat([halves, torch.ones_like(halves[:, :1])], 1)


@pytest.fixture
def tiny_classifier() -> Classifier:
    """`Halves` at 8×8 pixels, with the classes `left`, `right` and `neither`."""
    return Classifier(Halves(), input_size=8, class_names=["left", "right", "neither"])


@pytest.fixture
def eventually():
    """Waits for what another process writes: wandb's own one fills its file after `finish` has returned."""

    def wait(holds, seconds=90.0):
        deadline = time.monotonic() + seconds
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.1)
        return holds()

    return wait
