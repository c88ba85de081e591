"""`ltx`: every command is found, and nothing heavy is imported before its settings were parsed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import is_dataclass

import pytest

from ltx import __version__
from ltx.cli.main import BENCHMARKS, COMMANDS, Command, main

EVERY = {**COMMANDS, **{f"bench {name}": command for name, command in BENCHMARKS.items()}}


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


@pytest.mark.parametrize("command", EVERY.values(), ids=EVERY)
def test_function_and_settings_of_every_command_exist(command: Command) -> None:
    (module, function), (where, schema) = (path.split(":") for path in (command.function, command.schema))
    assert callable(getattr(importlib.import_module(module), function))
    assert is_dataclass(getattr(importlib.import_module(where), schema))


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["finetune", "stesp=3"], ["bench"], ["trian"]])
def test_help_and_mistakes_import_neither_torch_nor_timm(words: list[str]) -> None:
    code = f"""
import sys
from ltx.cli.main import main
try:
    main({words!r})
finally:
    print([name for name in ("torch", "timm", "numpy", "wandb") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("command", EVERY)
def test_help_of_every_command_imports_no_torch(command: str) -> None:
    code = f"""
import sys
from ltx.cli.main import main
try:
    main([*{command.split()!r}, "--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: ltx {command} ")


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert {*COMMANDS, "bench"} <= listed


def test_a_typo_suggests_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("finetun") == 2
    assert capsys.readouterr().err == "error: 'finetun' is not a command; did you mean finetune?\n"
    assert exit_code("bench", "atribute") == 2
    assert "did you mean attribute?" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"ltx {__version__}\n"
