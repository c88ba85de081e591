"""Explain images with an explainer adapted to each: the same as `ltx finetune`; `--help` lists every setting."""

import sys

from ltx.cli.main import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
