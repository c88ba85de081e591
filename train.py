"""Pretrain an explainer: the same as `ltx train`; `python train.py --help` lists every setting."""

import sys

from ltx.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
