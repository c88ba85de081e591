"""Explanations as the pictures that the app shows."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np

from ltx.results.explanation import Explanation
from ltx.results.pictures import COLOURS, displayed, overlay


def photograph(explanation: Explanation) -> np.ndarray:
    """The explained pixels as people see them, uint8 `[H, W, 3]`."""
    return displayed(explanation.arrays()["image"])


def shaded(explanation: Explanation) -> np.ndarray:
    """The overlay of the mask, or of the stretched map if there is no mask; uint8 `[H, W, 3]`."""
    arrays = explanation.arrays()
    return overlay(photograph(explanation), arrays["mask"] if "mask" in arrays else _stretched(arrays["map"]))


def coloured(explanation: Explanation) -> np.ndarray:
    """The map in colours, dark = irrelevant; uint8 `[H, W, 3]`."""
    values = explanation.arrays()["map"]
    unit = explanation.mask is not None and values.min() >= 0 and values.max() <= 1
    colours = mpl.colormaps[COLOURS](values if unit else _stretched(values))[..., :3]
    return np.asarray((colours * 255).round(), dtype=np.uint8)


def heat(explanation: Explanation) -> np.ndarray:
    """The map in colours over the greyed image; uint8 `[H, W, 3]`."""
    grey = photograph(explanation).mean(2, keepdims=True)
    return np.asarray((0.45 * grey + 0.55 * coloured(explanation)).round(), dtype=np.uint8)


def summary(explanation: Explanation) -> str:
    """One line: the class and its probabilities."""
    parts = [f"probability {float(explanation.probability[0]):.3f}"]
    for name, value in (("kept", explanation.probability_kept), ("removed", explanation.probability_removed)):
        if value is not None:
            parts.append(f"{name} {float(value[0]):.3f}")
    if explanation.mask is not None:
        parts.append(f"mask area {float(explanation.mask.mean()):.2f}")
    how = f"{explanation.steps} steps" if explanation.steps else "one forward pass"
    return f"{explanation.labels[0]}: {', '.join(parts)} ({how})"


def _stretched(values: np.ndarray) -> np.ndarray:
    """To [0, 1]; of a signed map, the positive part."""
    low, high = float(values.min()), float(values.max())
    low = max(low, 0.0) if high > 0 else low
    return (values - low) / (high - low) if high > low else np.ones_like(values)
