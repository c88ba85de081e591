"""What stands in two places says the same, and the README's commands are there."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import yaml

PROJECT = Path(__file__).parent.parent


def test_conda_environment_has_the_dependencies_of_pyproject() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    extras = project["optional-dependencies"]
    tests = [entry for entry in extras["test"] if not entry.startswith("ltx[")]
    assert pip == [*project["dependencies"], *tests, *extras["docs"], "--editable ."]
    assert f"python{project['requires-python']}" in environment["dependencies"]


def test_readme_starts_with_the_two_commands() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```", (PROJECT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    install, check = ([part.strip() for part in block.split("&&")] for block in blocks[:2])
    assert install == [
        "python3 -m venv .venv",
        ".venv/bin/python -m pip install -e .",
        ".venv/bin/python train.py",
        ".venv/bin/python finetune.py",
    ]
    assert check == [
        "python3 -m venv .venv",
        ".venv/bin/python -m pip install -e '.[test]'",
        ".venv/bin/python -m pytest",
    ]
    for script in ("train.py", "finetune.py"):
        assert (PROJECT / script).is_file()


def test_ci_runs_the_second_command_of_the_readme() -> None:
    script = PROJECT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.splitlines()[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in text
    # It reads the command from the README; run that very line of it.
    (reading,) = [line for line in text.splitlines() if line.startswith("command=$(")]
    awk = shlex.split(reading.removeprefix("command=$(").removesuffix(")"))
    found = subprocess.run(awk, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    blocks = re.findall(r"^```\w*\n(.*?)^```", (PROJECT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert found == blocks[1]
