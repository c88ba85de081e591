import json
import subprocess
import sys
from pathlib import Path

import pytest

from ltx.report.scores_page import per_image, rivals
from ltx.report.write import write_report
from ltx.runtime.errors import InputError
from tests.report.test_results_page import page_data

SCORES = {
    "protocol": "ltx",
    "classifier": "resnet10t",
    "n": 2,
    "skipped": 0,
    "methods": {"gradcam": {"POS": {"mean": 1.5, "low": 1.0, "high": None}}},
    "metrics": {"POS": {"direction": "lower", "meaning": "area", "citation": "someone"}},
    "target": "predicted",
    "precision": "fp32",
    "seed": 0,
}
LINES = 'image,method,target,label,probability,POS\n"<b>, ""a"".jpg",gradcam,3,fox,0.25,1.5\nb.jpg,gradcam,3,fox,0.5,\n'


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    (tmp_path / "per_image.csv").write_text(LINES)
    (tmp_path / "curves.png").touch()
    return tmp_path


def test_the_page_has_the_table_the_figures_and_each_image(evaluated: Path) -> None:
    data = page_data(write_report([evaluated]))
    assert data["methods"] == SCORES["methods"]
    assert data["figures"] == [["curves.png", "Curves"]]
    assert data["columns"][-1] == "POS"
    assert data["lines"] == [
        ['<b>, "a".jpg', "gradcam", 3, "fox", 0.25, 1.5],
        ["b.jpg", "gradcam", 3, "fox", 0.5, None],
    ]


def test_an_empty_cell_is_not_a_number(evaluated: Path) -> None:
    assert per_image(evaluated / "per_image.csv")[1][1][-1] is None


def test_controls_and_selected_maps_do_not_compete() -> None:
    methods = ["ltx", "random", "constant", "ltx@positive"]
    scores = {"methods": {name: {} for name in methods}, "selected_by": {"ltx@positive": "positive"}}
    assert rivals(scores) == ["ltx"]
    assert rivals({"methods": {"random": {}}}) == ["random"]


def test_damaged_scores_are_named(evaluated: Path) -> None:
    (evaluated / "scores.json").write_text("{")
    with pytest.raises(InputError, match="scores cannot be read"):
        write_report([evaluated])


def test_the_page_of_explanations_does_not_wait_for_torchmetrics() -> None:
    code = "import sys; import ltx.report.write; print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stdout + done.stderr
