"""`python -m ltx.attribute`: write attribution maps of image files; `--help` lists every setting."""

from ltx.cli.attribute import AttributeConfig, attribute_files
from ltx.config.command_line import run

if __name__ == "__main__":
    run(attribute_files, AttributeConfig, "python -m ltx.attribute", "Write attribution maps of image files.")
