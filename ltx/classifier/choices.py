"""Allowed values of a classifier's settings."""

from __future__ import annotations

from typing import Literal

HeadName = Literal["softmax", "sigmoid", "binary"]
HEADS: tuple[HeadName, ...] = ("softmax", "sigmoid", "binary")

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
