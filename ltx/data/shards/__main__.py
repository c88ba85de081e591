"""`python -m ltx.data.shards`: make shards of files, or count those that there are; `--help` lists every setting."""

from ltx.config.command_line import run
from ltx.data.shards.making import MakeConfig, make

if __name__ == "__main__":
    run(make, MakeConfig, "python -m ltx.data.shards", "Make shards of image files, with a manifest of their counts.")
