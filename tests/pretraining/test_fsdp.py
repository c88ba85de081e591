"""FSDP: a sharded explainer trains, saves and resumes as a whole one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.processes import patched_script, run_python, torchrun
from tests.support.several_processes import PEAK_LR, assert_same_curves, words_for, write_inputs
from tests.support.small_trainings import assert_same_weights, saved_step


@pytest.mark.slow
def test_a_sharded_explainer_trains_saves_and_resumes_like_an_unsharded_one(tmp_path: Path) -> None:
    """Each rank has half of the parameters; the run dies in step 5, and its last checkpoint is that of step 4."""
    inputs = write_inputs(tmp_path)
    script = patched_script(
        tmp_path / "sharded.py",
        "def patched(self, batch, batch_idx):\n"
        "    if self.global_step == int(os.environ['DIES_AT']):\n"
        "        os.abort()\n"
        "    parameters = list(self.explainer.parameters())\n"
        "    local = sum(p.to_local().numel() for p in parameters)\n"
        "    print(f'has {local / sum(p.numel() for p in parameters):.2f}', flush=True)\n"
        "    return step(self, batch, batch_idx)\n",
    )
    out, whole = tmp_path / "sharded", tmp_path / "whole"
    words = ["explainer.name=unet", "explainer.trunk=copy", "trainer.validate_every=2"]  # validated at step 4, too
    run_python("train.py", *words_for(inputs, whole, 1, *words))
    command = [*torchrun(2, script), *words_for(inputs, out, 2, *words, "trainer.strategy=fsdp")]
    run_python(*command, status=1, DIES_AT="5")
    assert saved_step(out) == 4
    printed = run_python(*command, DIES_AT="-1")
    assert f"resuming from {out}/last.ckpt" in printed
    assert set(re.findall(r"has ([\d.]+)", printed)) == {"0.50"}
    assert_same_curves(out, whole)
    assert_same_weights(out, whole, tolerance=3 * PEAK_LR)
    first, second = (load_file(folder / "explainer.safetensors") for folder in (out, whole))
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in second.items()}
