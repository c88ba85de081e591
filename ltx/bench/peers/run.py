"""All comparisons of `ltx bench peers`."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ltx.bench.conditions import machine, versions
from ltx.bench.passes import passes_counted
from ltx.bench.peers.extremal import extremal_perturbation
from ltx.bench.peers.gradient_maps import cam, integrated_gradients, occlusion
from ltx.bench.peers.iia_loop import iia
from ltx.bench.peers.loading import loading
from ltx.bench.peers.pair import Inputs, Peer
from ltx.bench.peers.pixel_flipping import pixel_flipping
from ltx.bench.peers.released_finetuning import released_finetuning
from ltx.bench.settings import PEER_NAMES, PeersBench
from ltx.bench.table import Table
from ltx.bench.timing import median_ratio, take_turns
from ltx.classifier.settings import ClassifierConfig
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError, suggest

PEERS = [
    Peer("gradcam", "grad-cam", "pytorch_grad_cam", cam("gradcam", "GradCAM")),
    Peer("gradcam++", "grad-cam", "pytorch_grad_cam", cam("gradcam++", "GradCAMPlusPlus")),
    Peer("layercam", "grad-cam", "pytorch_grad_cam", cam("layercam", "LayerCAM")),
    Peer("integrated_gradients", "captum", "captum.attr", integrated_gradients),
    Peer("occlusion", "captum", "captum.attr", occlusion),
    Peer("pixel_flipping", "quantus", "quantus", pixel_flipping),
    Peer("extremal_perturbation", None, None, extremal_perturbation),
    Peer("loader", "timm", "timm", loading),
    Peer("finetuning", None, None, released_finetuning(False)),
    Peer("finetuning_with_metrics", None, None, released_finetuning(True)),
    Peer("iia", None, None, iia),
]


def measure(config: PeersBench) -> None:
    """Time each pair, alternating, and write `OUT/peers.md` and `OUT/peers.json` after each line.

    Raises:
        InputError: an unknown peer, an impossible number, or images or weights that cannot be read.
        PartialFailureError: comparisons failed.
    """
    for name in config.peers:
        if name not in PEER_NAMES:
            raise InputError(
                f"peers: {name!r} is not a peer{suggest(name, PEER_NAMES)}; allowed: {', '.join(PEER_NAMES)}"
            )
    if min(config.count, config.repeats) < 1:
        raise InputError("count and repeats must be positive")
    device = pick_device(config.device)
    packages = dict.fromkeys(peer.package for peer in PEERS if peer.package)
    table = Table(Path(config.out), "peers", machine(device) | versions(packages))
    for model in config.models:
        weights = config.weights.get(model, None if model == "tf_efficientnet_lite0" else "random")
        for precision in config.precisions:
            settings = ClassifierConfig(model, weights, input_size=config.input_size, precision=precision)
            torch.manual_seed(0)
            classifier = settings.build().to(device)
            files = find_images(config.images)
            images = load_images(
                [files[i % len(files)] for i in range(config.count)],
                classifier.input_size,
                channels=classifier.channels,
            ).to(device)
            with torch.no_grad():
                targets = classifier(images).argmax(1)
            inputs = Inputs(classifier, images, targets, config)
            for peer in PEERS:
                if peer.name in config.peers and not (peer.name == "loader" and (model, precision) != _first(config)):
                    _compare(peer, inputs, table, f"{model}, {precision}, {config.count} images")
    table.finish()


def _first(config: PeersBench) -> tuple[str, str]:
    """The loader does not depend on the classifier, so it is timed once."""
    return config.models[0], config.precisions[0]


def _compare(peer: Peer, inputs: Inputs, table: Table, section: str) -> None:
    """Add the line of one pair: the ratio, what each side computes, and the difference of the results."""
    label = f"{peer.name}, next to {peer.package or 'a plain loop'}"
    try:
        if peer.module is not None:
            importlib.import_module(peer.module)
    except ImportError as error:
        is_peer = (error.name or "").split(".")[0] == str(peer.module).split(".")[0]
        missing = peer.package if is_peer else error.name
        table.add(section, label, f"left out: install the package {missing} (pip install ltx[bench])")
        return
    try:
        pair = peer.build(inputs)
        if isinstance(pair, str):
            table.add(section, label, f"left out: {pair}")
            return
        results: dict[str, torch.Tensor | None] = {}
        passes: dict[str, float] = {}

        def run(name: str, side: Callable[[], torch.Tensor | None]) -> None:
            if name in passes:
                results[name] = side()
                return
            with passes_counted(inputs.classifier) as counter:  # the warm-up
                results[name] = side()
            passes[name] = counter[0] / len(inputs.images)

        work = {"ours": partial(run, "ours", pair.ours), "theirs": partial(run, "theirs", pair.theirs)}
        seconds = take_turns(work, inputs.config.repeats, inputs.device)
        ratio = median_ratio(seconds["theirs"], seconds["ours"])
        own, other = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
        ours, theirs = results["ours"], results["theirs"]
        compared = ""
        if pair.difference is not None and ours is not None and theirs is not None:
            compared = f"; {pair.difference(ours, theirs)}"
        count = (
            f"{passes['ours']:.1f} and {passes['theirs']:.1f} full passes per image; " if any(passes.values()) else ""
        )
        text = f"{ratio:.2f} x as fast ({own:.3f} s and {other:.3f} s); {count}{pair.computes}{compared}"
        table.add(section, label, text, ratio=ratio, ours=own, theirs=other, passes=passes)
    except Exception as error:  # another package may fail in its own ways, which must not end the comparison
        table.add_failure(section, label, error)
