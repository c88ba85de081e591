"""Trained explainers on disk and on wandb."""
