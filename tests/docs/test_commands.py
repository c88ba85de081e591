"""Every command and every Python block of the documentation works, or at least parses."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from ltx.attribution.registry import check_options
from ltx.attribution.settings import AttributeConfig
from ltx.cli.main import BENCHMARKS, COMMANDS, Command
from ltx.config.command_line import parse
from ltx.evaluation.settings import EvaluationConfig
from ltx.runtime.errors import InputError
from tests.support.documentation import PAGES, PROJECT, Block, blocks, ltx_arguments, recorded_commands, run_shell

SHELL = [block for page in PAGES for block in blocks(page, "sh", "bash", "shell")]
PYTHON = [block for page in PAGES for block in blocks(page, "python", "py")]
RUNNABLE = [
    pytest.param(page, speed, id=f"{page.relative_to(PROJECT)}-{speed}", marks=[pytest.mark.slow] * (speed == "slow"))
    for page in PAGES
    for speed in ("fast", "slow")
    if any(block.run == speed for block in blocks(page, "python", "sh"))
]


def settings(arguments: list[str]) -> Any:
    """Parse the words after `ltx` against the schema of their command.

    Raises:
        InputError: an unknown command, or settings that the command refuses.
    """
    commands: dict[str, Command] = COMMANDS
    name, *words = arguments
    if name == "bench":
        commands, (name, *words) = BENCHMARKS, words
    if name not in commands:
        raise InputError(f"{name!r} is not a command")
    module, _, schema = commands[name].schema.partition(":")
    return parse(getattr(importlib.import_module(module), schema), words, name, "")


def check(arguments: list[str]) -> None:
    """Check the words after `ltx` of one command."""
    if arguments in (["--help"], ["bench"], ["--version"]) or arguments[-1] == "--help":
        assert not arguments[:-1] or arguments[0] in {*COMMANDS, "bench"}
        return
    config = settings(arguments)
    if isinstance(config, AttributeConfig):
        check_options(config.method, config.options)
    if isinstance(config, EvaluationConfig):
        from ltx.evaluation.methods import parse_name

        for method in config.methods:
            parse_name(method)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_parse(block: Block, tmp_path: Path) -> None:
    for command in recorded_commands(block.code, tmp_path):
        arguments = ltx_arguments(command)
        if arguments is not None:
            check(arguments)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_compile(block: Block) -> None:
    code = block.code if not block.code.rstrip().endswith('"""') else block.code + "    ...\n"
    compile(code, str(block), "exec")


@pytest.mark.parametrize(("page", "speed"), RUNNABLE)
def test_runnable_blocks_run(page: Path, speed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marked blocks of a page run in order, in a folder with a photograph, `photos/` and two classes of them."""
    from skimage import data
    from skimage.io import imsave

    (tmp_path / "photos").mkdir()
    imsave(tmp_path / "photo.jpg", data.chelsea(), check_contrast=False)
    imsave(tmp_path / "photos" / "coffee.jpg", data.coffee(), check_contrast=False)
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "photos")
    for name in ("coffee.jpg", "photo.jpg"):
        shutil.copytree(tmp_path / "photos", tmp_path / "imagenette" / "train" / name.removesuffix(".jpg"))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python", "sh"):
        if block.run != speed:
            continue
        if block.language == "sh":
            run_shell(block.code, tmp_path)
        else:
            exec(compile(block.code, str(block), "exec"), namespace)


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "imagse=photo.jpg"],
        ["train", "explainer.name=transformer"],
        ["attribute", "method=rise", "options.mask=4"],
        ["evaluate", "methods=[gradcam@layer]"],
        ["fintune"],
        ["bench", "speed"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_found(arguments: list[str]) -> None:
    with pytest.raises(InputError):
        check(arguments)


def test_the_shell_expands_what_it_would_expand(tmp_path: Path) -> None:
    code = "D='a=[1] b=2'\nltx train $D \\\n    c='x y'\nfor seed in 0 1; do python train.py seed=$seed; done"
    commands = recorded_commands(code, tmp_path)
    assert [ltx_arguments(command) for command in commands] == [
        ["train", "a=[1]", "b=2", "c=x y"],
        ["train", "seed=0"],
        ["train", "seed=1"],
    ]
    with pytest.raises(AssertionError, match="ltxx"):
        recorded_commands("ltxx train", tmp_path)


def test_pages_have_commands() -> None:
    """The patterns above find blocks at all."""
    assert len(SHELL) > 20
    assert len(PYTHON) > 8
    assert len(RUNNABLE) >= 4
