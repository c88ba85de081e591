"""Per-image finetuning of explainers, many images at once."""
