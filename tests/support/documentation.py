"""Fenced blocks of the documentation, and the `ltx` commands that its shell blocks would run."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    [
        PROJECT / "README.md",
        PROJECT / "CONTRIBUTING.md",
        *(PROJECT / "docs").rglob("*.md"),
        *(PROJECT / "checkpoints").rglob("README.md"),
        *(PROJECT / "data").rglob("README.md"),
    ]
)

FENCE = re.compile(
    r"^(?:<!-- run(?P<run>: slow)? -->\n)?(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    flags=re.MULTILINE | re.DOTALL,
)

PROGRAMS = ("ltx", "python", "python3", "torchrun", "srun", "scontrol", "wandb", "pip", "pre-commit", "mkdocs", "conda")
"""Commands that a page may contain."""

RECORDER = """#!{python}
import json, os, sys
with open(os.environ["COMMANDS"], "a") as record:
    record.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file that contains it.
        line: the line of its opening fence, from 1.
        language: the word after the fence.
        code: its text, without the indentation of the fence.
        run: `""` = not marked, `"fast"` or `"slow"` = marked `<!-- run -->` or `<!-- run: slow -->`.
    """

    page: Path
    line: int
    language: str
    code: str
    run: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in the given languages."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match["language"] not in languages:
            continue
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("indent")) + 1
        marked = "" if not match[0].startswith("<!-- run") else "slow" if match["run"] else "fast"
        found.append(Block(page, line, match["language"], code, marked))
    return found


def recorded_commands(code: str, folder: Path) -> list[list[str]]:
    """The commands that bash runs for `code`, with the shell's quoting and expansion; none of them does anything.

    The `PATH` contains recorders only, so a command that no page should contain fails; `cd` stays where it is, because
    the folders do not exist.

    Raises:
        AssertionError: bash reports an error, such as an unknown command or a missing quote.
    """
    folder = folder / "shell"
    record = folder / "commands.jsonl"
    for name in (*PROGRAMS, ".venv/bin/python", ".venv/bin/ltx", ".ci/run"):
        program = folder / ("programs" if "/" not in name else ".") / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(RECORDER.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / ".venv" / "bin" / "activate").touch()
    for entered in re.findall(r"\bcd ([\w./-]+)", code):
        (folder / entered).mkdir(parents=True, exist_ok=True)
    record.touch()
    environment = {"PATH": str(folder / "programs"), "COMMANDS": str(record), "HOME": str(folder)}
    bash = subprocess.run(
        ["/bin/bash", "-u", "-c", f"cd() {{ :; }}\n{code}"],
        cwd=folder,
        env=environment | ({"SLURM_JOB_ID": "1"} if "SLURM_JOB_ID" in code else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not bash.stderr, bash.stderr
    return [json.loads(line) for line in record.read_text().splitlines()]


def ltx_arguments(command: list[str]) -> list[str] | None:
    """The words after `ltx` of a recorded command, however it starts `ltx`; None if it starts something else."""
    scripts = {"train.py": ["train"], "finetune.py": ["finetune"]}
    program, *words = command
    if program == "ltx":
        return words
    if program in ("srun", "torchrun", "python", "python3"):
        for index, word in enumerate(words):
            if word in scripts:
                return scripts[word] + words[index + 1 :]
            if word == "-m":
                return words[index + 2 :] if words[index + 1] == "ltx" else None
    return None


def run_shell(code: str, folder: Path) -> None:
    """Run a block for real, with the programs of this Python's environment first on the `PATH`."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["/bin/bash", "-euo", "pipefail", "-c", code], cwd=folder, env=environment, check=True, timeout=1200)
