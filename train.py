"""Pretrain an explainer; `python train.py --help` lists every setting."""

from ltx.config.command_line import run
from ltx.pretraining.run import pretrain
from ltx.pretraining.settings import TrainConfig

if __name__ == "__main__":
    run(lambda config: print(f"done: {pretrain(config)}"), TrainConfig, "train.py", "Pretrain an explainer.")
