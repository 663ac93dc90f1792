"""Attacks on the command line, made by a seed: none ends in a bug line, a hang, a full memory or a half-written model.

    pytest tests/attacks --attack-seed 7

Each test is a part of a family, in a process of its own; `runner.py` says what an attack is and what counts as a fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.families import FAMILIES

ROOT = Path(__file__).parents[2]
PARTS = {"images": 2, "checkpoints": 1, "folders": 2, "tasks": 2, "environment": 1}
ROUNDS = "SHOTFIT_ATTACK_ROUNDS"  # so many times as many attacks
LEAST = {"images": 60, "checkpoints": 60, "folders": 300, "tasks": 300, "environment": 40}

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attacks fork, and read /proc")


def test_families_are_as_large_as_promised() -> None:
    kinds = {name: len(family.kinds) for name, family in FAMILIES.items()}
    mutations = {name: sum(1 for _ in family.attacks()) for name, family in FAMILIES.items()}
    assert all(kinds[name] >= LEAST[name] for name in ("images", "checkpoints", "environment")), kinds
    assert all(mutations[name] >= LEAST[name] for name in ("folders", "tasks")), mutations


@linux
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("family", "part"), [(name, part) for name, parts in PARTS.items() for part in range(parts)])
def test_attacks_end_in_one_line(family: str, part: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    seed = os.environ["SHOTFIT_ATTACK_SEED"]
    command = [
        sys.executable,
        "-m",
        "tests.attacks.runner",
        family,
        "--seed",
        seed,
        "--part",
        f"{part}/{PARTS[family]}",
    ]
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
