"""Two processes that torchrun starts fit what one does, the first alone saves and prints, and a failure is one line."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shotfit.engine import ranks
from shotfit.engine.ranks import joined, world
from shotfit.errors import UsageError
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone, tiny_task

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}  # of the largest entry
FITS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from shotfit.checkpoints.weights import load_backbone
from shotfit.data.readers import read_task
from shotfit.engine import ranks
from shotfit.engine.ranks import joined
from shotfit.engine.store import Store
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone
torch.set_num_threads(1)
folder, name = Path(sys.argv[1]), sys.argv[2]
with joined() as first:
    for dtype in (torch.float32, torch.float64):
        backbone = load_backbone(folder / "backbone").to(dtype)
        tasks = [read_task(folder / "one").sealed(), read_task(folder / "other").sealed()]
        for method, options, batch in (
            ("coop", {"length": 4}, tasks[0]), ("mma", {}, tasks[0]), ("tip_adapter_f", {}, tasks[0]),
            ("softcpt", {}, tasks), ("softcpt", {"variant": "csts", "class_sampling": 0.5}, tasks),
            ("dualadapter", {}, tasks[0]), ("prograd", {}, tasks[0]), ("cocoop", {}, tasks[0]),
        ):
            recipe = "auto" if method == "coop" else "paper"  # the first chooses its rate by trials
            model = fit(batch, method, options=options, steps=20, recipe=recipe, backbone=backbone,
                        check=recipe == "auto", keep=True, store=Store(folder / f"store-{name}"), memory=300_000)
            if first:
                state = {key: value.contiguous() for key, value in model.method.state().items()}
                number = len(list((folder / name).iterdir()))
                save_file(state, folder / name / f"{number}-{method}-{str(dtype)[6:]}.safetensors")
            print("fitted", method)
"""
FAILS = """
import os, signal, time
from shotfit.errors import ShotfitError
from shotfit.methods.coop import CoOp

class Fails(CoOp):
    taken = 0
    def loss(self, images, labels):
        self.taken += 1
        if self.taken == 3 and {where}:
            {what}
        return super().loss(images, labels)
"""


def together(arguments: Sequence[str], **named: str) -> subprocess.CompletedProcess[str]:
    """A program in two processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"} | named
    return subprocess.run(command, env=surroundings, capture_output=True, text=True)


def lines_of(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """What our processes say on standard error, without what torchrun says of them."""
    return [line for line in ended.stderr.splitlines() if line.startswith(("error", "ended", "interrupted"))]


@pytest.mark.slow
def test_two_processes_fit_what_one_does(tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "backbone")
    tiny_task(tmp_path / "one")
    tiny_task(tmp_path / "other", ("small", "large"), seed=1)
    (tmp_path / "fits.py").write_text(FITS)
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    alone = subprocess.Popen([sys.executable, str(tmp_path / "fits.py"), str(tmp_path), "alone"])
    both = together([str(tmp_path / "fits.py"), str(tmp_path), "together"])
    assert alone.wait() == 0
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("fitted") == 16  # by the first process alone
    assert both.stderr.count("note: softcpt looks at a batch as a whole") == 2  # with classes that are sampled
    files = sorted((tmp_path / "alone").iterdir())
    assert len(files) == 16 and len(list((tmp_path / "together").iterdir())) == 16
    for file in files:
        ours, other = load_file(file), load_file(tmp_path / "together" / file.name)
        for key, value in ours.items():
            if value.is_floating_point():
                difference = float((value - other[key]).abs().max() / value.abs().max().clamp_min(1e-30))
                assert difference <= TOLERANCES[file.stem.rpartition("-")[2]], (file.name, key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny task, and a tiny backbone."""
    found = tmp_path_factory.mktemp("ranks")
    tiny_backbone(found / "backbone")
    tiny_task(found / "photos")
    return found


def fit_with(folder: Path, method: str) -> list[str]:
    command = ["-m", "shotfit", "fit", str(folder / "photos"), "--backbone", str(folder / "backbone")]
    return [*command, "--method", method, "--steps", "20", "--no-check", "--out", str(folder / "model")]


@pytest.mark.parametrize(
    "where, what, told",
    [
        pytest.param(
            "os.environ['RANK'] == '1'",
            "raise ShotfitError('the sky fell.')",
            ["error: the sky fell."],
            marks=pytest.mark.slow,
        ),
        ("os.environ['RANK'] == '1'", "os.kill(os.getpid(), signal.SIGKILL)", None),
    ],
)
def test_failure_of_one_process_ends_all_with_one_line(
    folder: Path, where: str, what: str, told: list[str] | None
) -> None:
    (folder / "own.py").write_text(FAILS.format(where=where, what=what))
    ended = together(fit_with(folder, f"{folder}/own.py:Fails"))
    lines = lines_of(ended)
    assert ended.returncode != 0 and not (folder / "model").exists()
    assert len(lines) == 1 and lines == (told or lines), ended.stderr


def test_budget_is_refused_in_several_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotfit.fitting.fit.world", lambda: 2)
    with pytest.raises(UsageError, match="budget counts seconds, which differ from process to process"):
        fit(folder / "photos", "coop", backbone=str(folder / "backbone"), budget=10)


@pytest.mark.slow
def test_recipe_for_several_machines_runs(folder: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "training-on-several-processes.md"
    first, several = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert first.startswith("torchrun --nproc-per-node 2 -m shotfit fit ") and len(several.splitlines()) <= 20
    command = shlex.split(several.replace("\\\n", " "), comments=True)
    assert command[0] == "torchrun" and command[-2:] == ["--out", "shared/birds"]
    instead = {"HOST:29500": f"127.0.0.1:{_free_port()}", "4": "1", "2000": "4", "photos/": f"{folder}/photos"}
    given = [instead.get(word, word) for word in command[1:]] + ["--backbone", str(folder / "backbone"), "--no-check"]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *given], cwd=folder, env=surroundings, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [machine.communicate() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "".join(out for out, _ in said).count("saved shared/birds") == 1
    assert (folder / "shared" / "birds" / "adapter.safetensors").is_file()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("processes, count", [(1, 5), (3, 7), (3, 3), (4, 2)])
def test_shares_cover_a_batch_and_weigh_one(processes: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world", lambda: processes)
    taken, weights = list[int](), list[float]()
    for rank in range(processes):
        monkeypatch.setattr(ranks, "_rank", lambda rank=rank: rank)
        weights.append(ranks.weight(count))
        taken += range(count)[ranks.share(count)] if weights[-1] else []
        assert range(count)[ranks.share(count)]
    assert taken == [*range(count)] and sum(weights) == pytest.approx(1)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as first:
        assert first and world() == 1 and not torch.distributed.is_initialized()
