"""Private APIs of dependencies still do what this project uses them for."""

from __future__ import annotations

import io
import re
import signal
import sys
import tarfile
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchmetrics import Metric

from ltx.runtime import private_api
from tests.support.tar_files import write_tar


class Pair(NamedTuple):
    maps: list[Tensor]
    final: Tensor


def test_tree_map_keeps_the_nesting_and_leaves_its_order() -> None:
    tree = (Pair([torch.zeros(1), torch.ones(2)], torch.full((3,), 2.0)), {"x": torch.full((4,), 3.0)}, None)
    mapped = private_api.tree_map(lambda leaf: None if leaf is None else leaf + 1, tree)
    assert isinstance(mapped[0], Pair)
    assert mapped[0].maps[1].tolist() == [2, 2]
    assert mapped[1]["x"].tolist() == [4] * 4
    assert [leaf if leaf is None else len(leaf) for leaf in private_api.tree_leaves(tree)] == [1, 2, 3, 4, None]


def test_a_function_mode_sees_the_operations_of_multi_head_attention() -> None:
    functions = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            functions.append(func)
            if func is F.multi_head_attention_forward:
                with self:
                    return private_api.multi_head_attention_steps(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    module, tokens = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.rand(2, 3, 8)
    for need_weights, function in ((False, F.scaled_dot_product_attention), (True, F.softmax)):
        expected = module(tokens, tokens, tokens, need_weights=need_weights)[0]
        functions.clear()
        with Seen():
            output = module(tokens, tokens, tokens, need_weights=need_weights)[0]
        assert function in functions
        torch.testing.assert_close(output, expected)


def test_uncompiled_is_the_module_that_was_compiled() -> None:
    module = torch.nn.Linear(2, 2)
    compiled = torch.compile(module)
    assert compiled is not module
    assert private_api.uncompiled(compiled) is module
    assert private_api.uncompiled(module) is module


def test_kill_subprocesses_ends_the_processes_of_lightnings_script_launcher() -> None:
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")] * 2, cluster_environment=LightningEnvironment())
    strategy._configure_launcher()
    launcher = strategy.launcher
    process = Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    launcher.procs.append(process)  # type: ignore[union-attr]
    private_api.kill_subprocesses(launcher, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    private_api.kill_subprocesses(None, signal.SIGKILL)  # a single process has no launcher


class Mean(Metric):
    def update(self, maps: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> None: ...


def test_accepted_arguments_are_those_that_update_names() -> None:
    accepted = private_api.accepted_arguments(Mean(), {"maps": 1, "masks": 2, "targets": 3})
    assert accepted == {"maps": 1, "targets": 3}


def test_names_of_shards_and_of_their_members() -> None:
    assert private_api.expand_urls("x/{08..10}.tar") == ["x/08.tar", "x/09.tar", "x/10.tar"]
    assert private_api.split_member_name("a.b/c.seg.png") == ("a.b/c", "seg.png")
    assert private_api.split_member_name("a/readme") == (None, None)


def test_a_tar_is_read_to_its_end_while_its_headers_are_dropped() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(20):
            archive.addfile(tarfile.TarInfo(f"{number}.jpg"))
    for mode in ("r|", "r:"):
        stream.seek(0)
        names = []
        with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
            for member in archive:
                names.append(member.name)
                private_api.forget_members(archive)
                assert not archive.members
        assert names == [f"{number}.jpg" for number in range(20)]


@pytest.mark.parametrize("mode", ["r:", "r:*", "r|", "r|*"])
@pytest.mark.parametrize("damage", ["", "no mark of the end", "cut", "flipped"])
def test_a_damaged_header_is_noticed(tmp_path: Path, mode: str, damage: str) -> None:
    content = write_tar(tmp_path / "a.tar", [("a.jpg", b"a" * 600), ("b.jpg", b"b" * 600)]).read_bytes()
    second = 3 * 512
    content = {
        "": content,
        "no mark of the end": content[:second],
        "cut": content[: second + 40],
        "flipped": content[:second] + b"x" + content[second + 1 :],
    }[damage]
    header = private_api.watched_headers()
    with tarfile.open(fileobj=io.BytesIO(content), mode=mode, tarinfo=header) as archive:  # type: ignore[call-overload]
        names = [member.name for member in archive]
    assert names == (["a.jpg"] if damage else ["a.jpg", "b.jpg"])
    assert header.damaged_at == (second if damage in ("cut", "flipped") else None)


def test_unet_decoder_goes_from_the_deepest_map_to_the_first_width() -> None:
    decoder = private_api.unet_decoder([3, 4, 8], [6, 5], n_blocks=2, use_norm="instancenorm")
    maps = [torch.rand(2, 3, 16, 16), torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)]
    assert decoder(maps).shape == (2, 5, 16, 16)
    assert any(isinstance(module, torch.nn.InstanceNorm2d) for module in decoder.modules())


@pytest.mark.parametrize("package", ["lightning", "torchmetrics", "webdataset", "segmentation-models-pytorch", "timm"])
def test_dependencies_with_private_uses_have_an_upper_bound(package: str) -> None:
    lines = (Path(__file__).parents[2] / "pyproject.toml").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith(f'"{package}>=')]
    assert ",<" in line


def test_private_modules_of_dependencies_are_imported_in_one_place_only() -> None:
    package = Path(private_api.__file__).parents[1]
    private = re.compile(
        r"^ *from (?!ltx|__future__)[\w.]+ import \(?_|torch\.utils\._|webdataset\.(tariterators|shardlists)"
        r"|segmentation_models_pytorch\.decoders|\._filter_kwargs",
        re.MULTILINE,
    )
    users = [
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if private.search(file.read_text(encoding="utf-8"))
    ]
    assert users == ["runtime/private_api.py"]
