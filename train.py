"""Pretrain an explainer; `python train.py --help` lists every setting."""

from ltx.config import run
from ltx.pretraining.job import pretrain
from ltx.pretraining.settings import TrainConfig

if __name__ == "__main__":
    run(lambda config: print(f"done: {pretrain(config)}"), TrainConfig, "train.py", "Pretrain an explainer.")
