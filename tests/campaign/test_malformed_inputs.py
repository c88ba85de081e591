"""Part 1: malformed files given to every command, and wrong tensors given to every public function."""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ltx.cli.main import BENCHMARKS, COMMANDS
from ltx.data.reading import read_image
from ltx.runtime.errors import InputError
from tests.campaign import oracle
from tests.campaign.arena import KINDS, TEXTS, Arena, explained
from tests.campaign.invocations import INVOCATIONS
from tests.campaign.mutations import mutated, mutated_text
from tests.campaign.opened_files import opened_files
from tests.campaign.oracle import Outcome, call, faults, partial_files, unaccounted
from tests.campaign.visitor import visited

CASES = [(name, number) for number in range(12) for name, each in INVOCATIONS.items() if number < each.cases]


def run(name: str, case: Arena, out: Path) -> Outcome:
    with visited(case.root / "photos") if name == "demo" else contextlib.nullcontext():
        return call(INVOCATIONS[name].words(case, out))


@contextlib.contextmanager
def prepared(arena: Arena, name: str, place: Path) -> Iterator[Arena]:
    """A copy of the arena for one case, with the results of a first run where the command runs again."""
    case = arena.copy(place)
    try:
        if INVOCATIONS[name].again:
            outcome = run(name, case, place / "out")
            assert outcome.status == 0, (name, outcome)
        yield case
    finally:
        shutil.rmtree(place, ignore_errors=True)


@functools.cache
def files_read(root: Path, name: str) -> list[str]:
    """The files that an undamaged command opens, relative to its copy of the arena; it must succeed."""
    with tempfile.TemporaryDirectory() as folder, prepared(Arena(root), name, Path(folder) / "case") as case:
        before = [file for file in case.root.rglob("*") if file.is_file() and file.stat().st_size]
        with opened_files(case.root) as opened:
            outcome = run(name, case, case.root / "out")
        assert outcome.status == 0, (name, outcome)
        return sorted(str(file.relative_to(case.root)) for file in before if file in opened and file.exists())


def kind(file: str) -> str:
    """Files of one folder and suffix are read by the same code."""
    return str(Path(file).parent / Path(file).suffix)


@functools.cache
def readers(root: Path) -> Counter[str]:
    """How many of the commands read a kind of file."""
    found = [files_read(root, name) for name, each in INVOCATIONS.items() if not each.missing]
    return Counter(name for files in found for name in {kind(file) for file in files})


def chosen(root: Path, name: str, case: Arena, rng: random.Random) -> Path:
    """A file that the command reads; more often of a kind that few other commands read."""
    files = files_read(root, name)
    kinds = sorted({kind(file) for file in files})
    place = Path(rng.choices(kinds, [1 / readers(root)[each] for each in kinds])[0])
    read = [case.root / file for file in files if kind(file) == str(place) and (case.root / file).exists()]
    # The names of pieces of an evaluation contain a hash of the paths of the images.
    return rng.choice(read or sorted((case.root / place.parent).glob(f"*{place.name}")))


def names_of(file: Path, words: list[str]) -> list[str]:
    """What an error about this file may name: the file, a folder, the setting that it was given by, or its entries."""
    entries = {
        "names.txt": ["classes"],
        "list.csv": ["photos"],
        "train.yaml": ["trainer", "data", "val_share", "max_steps"],
    }
    names = [file.name, file.parent.name, *entries.get(file.name, [])]
    for word in words:
        key, _, value = word.partition("=")
        path = Path(value.strip("[]").removeprefix("ltx:"))
        if path in (file, *file.parents):
            names += [key.rpartition(".")[2], path.name]
    return names


def keeps_order(how: str, file: Path) -> bool:
    """Whether a damaged tar file has its members in their order, and was not cut between two, which is valid."""
    return set(how.split("+")) <= {"flipped", "flipped_header", "cut"} and (
        "cut" not in how or file.stat().st_size % 512 > 0
    )


def damage(file: Path, rng: random.Random) -> str:
    """Damage a file, and return how."""
    if file.suffix in (*TEXTS, ".txt") and rng.random() < 0.5:
        text, how = mutated_text(file.read_text(), rng)
        file.write_text(text)
    else:
        content, how = mutated(file.read_bytes(), rng)
        file.write_bytes(content)
    return how


def test_every_command_is_invoked() -> None:
    place = Path("arena")
    invoked = [each.words(Arena(place), place / "out") for each in INVOCATIONS.values()]
    names = {" ".join(words[: 1 + (words[0] == "bench")]) for words in invoked}
    assert names == {*COMMANDS, *(f"bench {name}" for name in BENCHMARKS)}


def test_the_oracle_sees_the_warnings_that_users_see(monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(words: list[str]) -> None:
        warnings.warn("a.jpg cannot be read", stacklevel=2)
        warnings.warn("unclosed file", ResourceWarning, stacklevel=2)

    monkeypatch.setattr(oracle, "main", warned)
    err = call([]).err
    assert "UserWarning: a.jpg cannot be read" in err
    assert "unclosed" not in err


def readable(file: Path) -> bool:
    """Whether a photograph or an object mask can be read; true for other files."""
    if file.parent.name not in ("photos", "train", "masks"):
        return True
    try:
        read_image(file)
    except InputError:
        return False
    return True


@pytest.mark.campaign
@pytest.mark.parametrize(("name", "number"), CASES, ids=str)
def test_malformed_file(arena: Arena, place: Path, rng: random.Random, name: str, number: int) -> None:
    if missing := INVOCATIONS[name].missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if not files_read(arena.root, name):
        pytest.skip("reads no files")
    with prepared(arena, name, place) as case:
        file, out = chosen(arena.root, name, case, rng), case.root / "out"
        how = damage(file, rng)
        outcome = run(name, case, out)
        found = faults(outcome, names_of(file, INVOCATIONS[name].words(case, out)))
        if out.exists() and not INVOCATIONS[name].again:
            found += partial_files(out)
        if outcome.status in (0, 3) and not readable(file) and file.name not in outcome.out + outcome.err:
            found.append(f"lost in silence: {file.name}")
        if INVOCATIONS[name].explains and outcome.status in (0, 3):
            images = [str(case.root / "photos" / photo) for photo in [*KINDS, "f.npy"]]
            found += unaccounted(images, explained(out), outcome)
        if outcome.status == 0 and name == "attribute tar" and keeps_order(how, file) and file.suffix == ".tar":
            found += unaccounted([f"{file}/{photo}" for photo in KINDS], explained(out), outcome)
        assert not found, (
            f"{how} of {file.relative_to(case.root)}: {found}\n{outcome.err[-600:]}\n{outcome.trace[-1500:]}"
        )
