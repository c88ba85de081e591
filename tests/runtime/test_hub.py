"""Without a network, the Hugging Face hub is in offline mode and answers at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from huggingface_hub import constants, is_offline_mode

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError
from ltx.runtime.hub import offline_if_unreachable


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the hub's address, without proxies and not offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return lambda url: monkeypatch.setattr(constants, "ENDPOINT", url)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_offline_only_within_the_context_and_without_a_server(endpoint: Callable[[str], None]) -> None:
    endpoint(f"http://127.0.0.1:{free_port()}")
    with offline_if_unreachable():
        assert is_offline_mode()
    assert not is_offline_mode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint(f"http://127.0.0.1:{server.getsockname()[1]}")
        with offline_if_unreachable():
            assert not is_offline_mode()


def test_a_server_behind_a_proxy_is_not_tried(endpoint: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint(f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "http://proxy:1"})
    monkeypatch.setattr("urllib.request.proxy_bypass", lambda host: False)
    with offline_if_unreachable():
        assert not is_offline_mode()


@pytest.mark.parametrize("name", ["test_convnext", "hf:someone/no-such-model"])
def test_pretrained_weights_are_refused_at_once(endpoint: Callable[[str], None], name: str) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    endpoint(f"http://127.0.0.1:{free_port()}")
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"classifier\.name=.*give "):
        Classifier(name)
    assert time.monotonic() - begun < 10
