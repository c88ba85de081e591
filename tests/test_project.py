"""Files that repeat each other agree: dependencies, README, CI, pre-commit, versions, pages of the documentation."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from ltx import __version__
from ltx.attribution.registry import METHODS
from ltx.cli.main import COMMANDS
from ltx.explainers.settings import EXPLAINERS
from ltx.metrics.registry import PROTOCOLS
from ltx.objectives.settings import TERMS

PROJECT = Path(__file__).parent.parent
SCRIPT = PROJECT / ".ci" / "run"


def blocks_of_readme() -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", (PROJECT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def pyproject() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


def test_conda_environment_has_the_dependencies_of_pyproject() -> None:
    project = pyproject()["project"]
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    extras = project["optional-dependencies"]

    def expanded(entries: list[str]) -> list[str]:
        parts = (re.fullmatch(r"ltx\[(\w+)\]", entry) for entry in entries)
        pairs = zip(entries, parts, strict=True)
        return [name for entry, extra in pairs for name in (expanded(extras[extra[1]]) if extra else [entry])]

    assert pip.pop() == "--editable ."
    assert sorted(pip) == sorted(project["dependencies"] + expanded(extras["test"]))
    assert f"python{project['requires-python']}" in environment["dependencies"]


def test_readme_begins_with_installing_and_testing() -> None:
    """The first block installs the project and runs its two commands, the second installs and tests it."""
    install, test = (
        [shlex.split(part) for part in re.split(r"&&|\n", block) if part.strip()] for block in blocks_of_readme()[:2]
    )
    for commands in (install, test):
        assert ["python3", "-m", "venv", ".venv"] in commands
        assert all(command[0].startswith(".venv/bin/") for command in commands if command[0] != "python3")
    assert [command[1:] for command in install if command[0] == ".venv/bin/ltx"] == [["train"], ["finetune"]]
    assert [".venv/bin/python", "-m", "pip", "install", "-e", ".[test]"] in test
    assert test[-1][:3] == [".venv/bin/python", "-m", "pytest"]


def test_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150


def test_ci_runs_the_second_command_of_the_readme() -> None:
    assert os.access(SCRIPT, os.X_OK)
    text = SCRIPT.read_text()
    assert text.splitlines()[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in text
    # CI reads the command from the README; run that line of the script.
    (reading,) = [line for line in text.splitlines() if line.startswith("command=$(")]
    awk = shlex.split(reading.removeprefix("command=$(").removesuffix(")"))
    command = subprocess.run(awk, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert command == blocks_of_readme()[1]


def test_pre_commit_and_the_workflow_check_what_ci_checks() -> None:
    script = SCRIPT.read_text().replace(".venv/bin/", "")
    (local,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        assert hook["entry"].replace(" --force-exclude", "") in script, hook["id"]
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["ci"]["steps"]


def test_versions_agree() -> None:
    assert yaml.safe_load((PROJECT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## [{__version__}]" in (PROJECT / "CHANGELOG.md").read_text()


def test_the_changelog_names_existing_modules() -> None:
    _, table = (PROJECT / "CHANGELOG.md").read_text().split("### Moved modules")
    rows = re.findall(r"^\| `ltx\.[^|]*\| (.*) \|$", table, flags=re.MULTILINE)
    assert len(rows) > 40
    for module in (name for row in rows for name in re.findall(r"`(ltx[\w.]*)`", row)):
        assert importlib.util.find_spec(module) is not None, module


def test_the_layers_of_contributing_are_those_of_the_contract() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text()
    (arrows,) = re.findall(r"^`cli`.*?`runtime`$", text, flags=re.MULTILINE | re.DOTALL)
    layers = [set(re.findall(r"`(\w+)`", part)) for part in arrows.split("→")]
    contract = pyproject()["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [set(re.findall(r"\w+", layer)) for layer in contract]
    assert [layer for layer in names if "__main__" not in layer] == [
        existing for layer in layers if (existing := {name for name in layer if (PROJECT / "ltx" / name).is_dir()})
    ]


def test_every_page_is_in_the_navigation() -> None:
    nav = re.search(r"^nav:\n(.*?)^\w", (PROJECT / "mkdocs.yml").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert nav is not None
    listed = re.findall(r": (\S+\.md)$", nav[1], flags=re.MULTILINE)
    pages = [page.relative_to(PROJECT / "docs").as_posix() for page in (PROJECT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_get_started_lists_every_command() -> None:
    page = (PROJECT / "docs" / "get_started.md").read_text()
    for name in (*COMMANDS, "bench"):
        assert re.search(rf"^\| `ltx {name}` \|", page, flags=re.MULTILINE), name


def test_every_method_metric_term_and_network_is_documented() -> None:
    methods = (PROJECT / "docs" / "methods.md").read_text()
    for name in (*METHODS, *EXPLAINERS, *TERMS):
        assert re.search(rf"^\|.*`{re.escape(name)}`", methods, flags=re.MULTILINE), name
    metrics = (PROJECT / "docs" / "metrics.md").read_text()
    for name, protocol in PROTOCOLS.items():
        assert re.search(rf"^## {name}$", metrics, flags=re.MULTILINE), name
        if name == "transfer":  # needs a second classifier
            continue
        for metric in protocol().metrics():
            assert re.search(rf"^\| {metric.name}\b", metrics, flags=re.MULTILINE), metric.name
