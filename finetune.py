"""Explain images with an explainer adapted to each; `python finetune.py --help` lists every setting."""

from ltx.config.command_line import run
from ltx.finetuning.finetune import FinetuneConfig, finetune_files

if __name__ == "__main__":
    run(finetune_files, FinetuneConfig, "finetune.py", "Adapt an explainer to each image and write the explanations.")
