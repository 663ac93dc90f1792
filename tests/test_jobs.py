"""Runs side by side: the same table, nothing twice, and what happens when a process dies or is interrupted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import Task
from shotfit.engine import claims as claiming
from shotfit.engine.claims import claims_in
from shotfit.engine.store import Store
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare
from shotfit.evaluation.running import Run, _under_way
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

METHODS = ["zero_shot", "tip_adapter", "coop+length=2+steps=4"]
DIES = """
import os, signal
from pathlib import Path
from shotfit.methods.zero_shot import ZeroShot

class Always(ZeroShot):
    name = "always"
    def prepare(self, support):
        os.kill(os.getpid(), signal.SIGKILL)

class Once(ZeroShot):
    name = "once"
    def prepare(self, support):
        if not Path({mark!r}).exists():
            Path({mark!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
SLOW = """
import time
from pathlib import Path
from shotfit.methods.zero_shot import ZeroShot

class Slow(ZeroShot):
    def prepare(self, support):
        (Path({folder!r}) / str(time.monotonic_ns())).touch()
        while not Path({go!r}).exists():
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("task"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def runs_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def scores_of(file: Path) -> dict[str, Any]:
    return {run["key"]: run["scores"] for run in runs_of(file)}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_runs_side_by_side_give_the_table_of_one_after_the_other(
    task: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, told = {}, list[Any]()
    for jobs in (1, 2):
        rows[jobs] = compare(
            task, METHODS, [1, 2], [1, 2], backbone=backbone, store=Store(tmp_path / f"store{jobs}"), jobs=jobs,
            out=tmp_path / f"{jobs}.jsonl", keep_predictions=tmp_path / f"said{jobs}", report=told.append,
        )  # fmt: skip
    assert scores_of(tmp_path / "1.jsonl") == scores_of(tmp_path / "2.jsonl")
    plain = [[(row.method, row.column, row.shots, row.mean, row.spread) for row in rows[jobs]] for jobs in (1, 2)]
    assert plain[0] == plain[1] and len(plain[0]) == 6
    said = {jobs: {one.name: one.read_bytes() for one in (tmp_path / f"said{jobs}").iterdir()} for jobs in (1, 2)}
    assert said[1] == said[2] and len(said[1]) == 12
    assert "2 processes of 1 thread each" in capsys.readouterr().err
    assert {run["under_way"] for run in told[12:]} == {0, 1, 2}
    assert [run["number"] for run in told[12:]] == [*range(1, 13)]


@pytest.mark.slow
def test_process_that_dies_is_a_line_and_its_run_is_done_once_more(
    task: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.py"
    own.write_text(DIES.format(mark=str(tmp_path / "mark")))
    methods = [f"{own}:Once", f"{own}:Always", "zero_shot", "tip_adapter"]
    with pytest.raises(ShotfitError, match=r"^1 run of 4 could not be done, since a process died twice in each: .*Alw"):
        compare(
            task, methods, [1], [1], backbone=backbone, store=Store(tmp_path / "store"), jobs=2,
            out=tmp_path / "runs.jsonl",
        )  # fmt: skip
    assert {run["method"] for run in runs_of(tmp_path / "runs.jsonl")} == set(methods) - {f"{own}:Always"}
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: a process died")]
    assert sorted(line.rpartition("; ")[2] for line in notes) == [
        "its run is done again.", "its run is done again.", "its run is left out."
    ]  # fmt: skip


def _command(task: Task, backbone: Backbone, folder: Path, out: str, methods: str, seeds: str, jobs: int) -> list[str]:
    command = [sys.executable, "-m", "shotfit", "compare", str(task.source), "--methods", methods, "--shots", "1"]
    command += ["--seeds", seeds, "--backbone", backbone.name, "--precision", "float32", "--jobs", str(jobs)]
    return [*command, "--out", str(folder / out)]


def _slow(folder: Path) -> tuple[str, Path]:
    """A method whose fit waits for a file `go`, and the folder with a file for each of its fits."""
    fits = folder / "fits"
    fits.mkdir()
    (folder / "slow.py").write_text(SLOW.format(folder=str(fits), go=str(folder / "go")))
    return f"{folder}/slow.py:Slow", fits


def _until(is_so: Any, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_run_that_is_under_way_in_another_comparison_is_waited_for(
    task: Task, backbone: Backbone, tmp_path: Path
) -> None:
    method, fits = _slow(tmp_path)
    surroundings = os.environ | {"SHOTFIT_CACHE": str(tmp_path / "cache")}

    def start(out: str) -> subprocess.Popen[str]:
        said = (tmp_path / f"{out}.{len(list(tmp_path.glob('*.said')))}.said").open("w")
        command = _command(task, backbone, tmp_path, out, method, "1", 1)
        with said:
            return subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=said, text=True)

    first = start("same.jsonl")
    _until(lambda: any(fits.iterdir()))
    others = [start("same.jsonl"), start("other.jsonl")]
    waiting = "waiting for another process, which does this run now"
    _until(lambda: sum(waiting in said.read_text() for said in tmp_path.glob("*.said")) == 2)
    (tmp_path / "go").touch()
    assert [process.wait() for process in (first, *others)] == [0, 0, 0]
    assert len(list(fits.iterdir())) == 1
    for out in ("same.jsonl", "other.jsonl"):
        assert [run["method"] for run in runs_of(tmp_path / out)] == [method]
    assert not list((tmp_path / "cache" / "streams").glob("runs"))


def test_error_after_a_run_was_taken_over_is_told_as_it_is(tmp_path: Path) -> None:
    run, path = Run("0f3a", "zero_shot", 1, 1, 0), tmp_path / "runs" / "0f3a.run"
    done = {"key": "0f3a", "method": "zero_shot", "shots": 1, "seed": 1, "seconds": 1, "refusal": None,
            "scores": {"photos": {"accuracy": 0.5, "images": 2}}}  # fmt: skip
    path.parent.mkdir()
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)

    def finish() -> None:
        time.sleep(0.3)
        os.write(held, json.dumps(done).encode())
        path.unlink()
        os.close(held)

    other = threading.Thread(target=finish)
    other.start()
    with pytest.raises(OSError, match="No space left"), _under_way(path.parent, run) as claim:
        assert claim.found == done
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    other.join()


def test_interrupt_ends_all_processes_with_one_line(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    method, fits = _slow(tmp_path)
    surroundings = os.environ | {"SHOTFIT_CACHE": str(tmp_path / "cache")}
    command = _command(task, backbone, tmp_path, "runs.jsonl", f"zero_shot,{method}", "1,2", 2)
    process = subprocess.Popen(
        command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _until(lambda: len(list(fits.iterdir())) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.splitlines()[-1] == "interrupted" and "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        _until(lambda: os.killpg(process.pid, 0))
    assert len(runs_of(tmp_path / "runs.jsonl")) == 2


def test_processes_end_with_a_parent_that_is_killed(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    method, fits = _slow(tmp_path)
    command = _command(task, backbone, tmp_path, "runs.jsonl", method, "1,2", 2)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    surroundings = os.environ | {"SHOTFIT_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=surroundings, **quiet)  # type: ignore[call-overload]
    _until(lambda: len(list(fits.iterdir())) == 2)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        _until(lambda: os.killpg(process.pid, 0), 20)


def test_number_of_jobs_is_checked(task: Task, backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="jobs is 0; expected 1 or more runs side by side"):
        compare(task, ["zero_shot"], backbone=backbone, jobs=0)


WRITER = """
import sys, torch
from pathlib import Path
from shotfit.engine import store
store.SMALL_BYTES, store.SMALL_SHARDS = 10**6, 4
computed = 0
def compute(missing):
    global computed
    for index in missing:
        computed += 1
        yield torch.full((1, 3), float(begin + index))
for begin in range(0, 600, 60):
    keys = [str(number) for number in range(begin, begin + 60)]
    rows = store.Store(Path(sys.argv[1])).rows({"a": 1}, keys, compute, "counting")
    assert rows[:, 0].tolist() == [float(key) for key in keys]
print(computed)
"""


def test_four_writers_lose_nothing_and_share_the_work(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    counts = [int(process.communicate()[0]) for process in started]
    assert [process.returncode for process in started] == [0] * 4
    keys = [str(number) for number in range(600)]
    assert Store(tmp_path).rows({"a": 1}, keys, never, "counting")[:, 0].tolist() == list(map(float, range(600)))
    assert 600 <= sum(counts) <= 660  # a row twice at most where one merged shards just then
    assert len(list(tmp_path.glob("*/*.safetensors"))) < 12


def never(missing: list[int]) -> Iterator[Tensor]:
    raise AssertionError(missing)


def test_claims_of_a_process_are_not_taken_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = tmp_path / "guard"
    guard.touch()
    monkeypatch.setattr(claiming, "PATIENCE", 0.05)
    numbers = iter((1, 1, 2))  # of processes
    monkeypatch.setattr("os.getpid", lambda: next(numbers, 2))
    with claims_in(tmp_path, guard) as one, claims_in(tmp_path, guard) as again, claims_in(tmp_path, guard) as other:
        assert one.take(["a", "b", "c"], 2) == {"a", "b"}
        assert again.take(["a"]) == {"a"}  # nobody waits for himself
        again.drop()
        assert other.take(["a", "b", "c"]) == {"c"}
        one.drop()
        other.wait(["a", "b"])  # returns, since nobody computes them
        assert other.take(["a", "b"]) == {"a", "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_claim_that_a_full_disk_does_not_take_stops_nothing(tmp_path: Path) -> None:
    guard = tmp_path / "guard"
    guard.touch()
    with Path("/dev/full").open("wb") as full, claims_in(tmp_path, guard) as claims:
        claims._file = full
        assert claims.take(["a"]) == {"a"}
