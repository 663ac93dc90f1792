"""Attacks on the command line, made by a seed: none ends in a bug line, a hang, a full memory or a half-written model.

    pytest tests/attacks -m attacks --attack-seed 7

Each test is some families, in a process of its own; `runner.py` says what an attack is and what counts as a fault. `make
attacks` runs all, twice as many as the tables say; CI runs one of nearly every kind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.families import FAMILIES
from tests.attacks.runner import MEMORY, Case, Outcome, Place, judge, run

ROOT = Path(__file__).parents[2]
ROUNDS = "SHOTFIT_ATTACK_ROUNDS"  # so many times as many attacks as a family's table says
SHARE = 0.2  # without it: one of nearly every kind, as in CI
HALVES = ("images environment", "tasks folders checkpoints")  # of the work: one for each of two cores
LEAST = {"images": 60, "checkpoints": 60, "folders": 300, "tasks": 300, "environment": 40}

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attacks fork, and read /proc")


def test_families_are_as_large_as_promised() -> None:
    assert sorted(" ".join(HALVES).split()) == sorted(FAMILIES)
    kinds = {name: len(family.kinds) for name, family in FAMILIES.items()}
    mutations = {name: sum(1 for _ in family.attacks(1)) for name, family in FAMILIES.items()}
    assert all(kinds[name] >= LEAST[name] for name in ("images", "checkpoints", "environment")), kinds
    assert all(mutations[name] >= LEAST[name] for name in ("folders", "tasks")), mutations


FINE: dict[str, Any] = {
    "code": 3,
    "seconds": 1.0,
    "processor": 1.0,
    "memory": 10**8,
    "output": b"",
    "errors": b"error: no image.\n",
}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"code": 1}, "exit 1"),
        ({"code": -9}, "exit -9"),
        ({"memory": MEMORY + 1}, "memory"),
        ({"stuck": "hangs (10 s)"}, "hangs"),
        ({"errors": b"Traceback (most recent call last):\n"}, "Traceback"),
        ({"errors": b"error: this is a bug of shotfit\n"}, "this is a bug"),
        ({"errors": b"error: \x1b[2J\n"}, "control characters"),
        ({"output": "a\u202eb".encode()}, "control characters"),
        ({"output": b"caf\xe9"}, "control characters"),
        ({"errors": b"x" * 10_001}, "a line of"),
        ({"errors": b""}, "without a word"),
    ],
)
def test_fault_is_seen(change: dict[str, Any], fault: str | None, tmp_path: Path) -> None:
    found = judge(Outcome(**FINE | change), Place(tmp_path, tmp_path), Case(["doctor"]))
    assert bool(found) is bool(fault), found
    assert not fault or fault in found[0]


def test_output_is_judged_in_the_encoding_that_was_asked_for(tmp_path: Path) -> None:
    outcome = Outcome(**FINE | {"output": "blåu".encode("latin-1")})
    place, asked = Place(tmp_path, tmp_path), Case(["doctor"], environ={"PYTHONIOENCODING": "latin-1:strict"})
    assert judge(outcome, place, asked) == [] and judge(outcome, place, Case(["doctor"])) != []


def test_what_is_left_or_was_run_is_seen(tmp_path: Path) -> None:
    (tmp_path / ".shotfit-x").touch()
    (tmp_path / "code-ran").touch()
    found = judge(Outcome(**FINE), Place(tmp_path, tmp_path), Case(["doctor"]))
    assert found == ["left .shotfit-x", "code ran"]


@linux
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of xdist, of which the child runs none
def test_child_that_waits_is_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.attacks.runner.SECONDS", 0.2)
    place = Place(tmp_path / "place", tmp_path)
    place.folder.mkdir()
    assert "hangs" in run(Case([], before=signal.pause), place).stuck


@linux
@pytest.mark.attacks
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("families", HALVES)
def test_attacks_end_in_one_line(families: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    seed = os.environ["SHOTFIT_ATTACK_SEED"]
    rounds = os.environ.get(ROUNDS, str(SHARE))
    command = [sys.executable, "-m", "tests.attacks.runner", *families.split(), "--seed", seed, "--rounds", rounds]
    base = tmp_path_factory.getbasetemp().parent / "attacked"  # xdist's workers share it
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [*command, "--base", str(base)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"seed {seed}\n{ran.stdout[-20_000:]}\n{ran.stderr[-5000:]}"
