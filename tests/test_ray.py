"""Ray: the rows of one process whatever happens to workers, runs of a comparison, nothing where it is not wanted."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shotfit.commands.cli import main
from shotfit.distributed import engine as through_ray
from shotfit.distributed.cluster import Cluster, _own_signals
from shotfit.distributed.feed import Feed
from shotfit.distributed.stages import Failed, Tower, handed, stand_in, taken
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import ShotfitError
from shotfit.evaluation.compare import compare
from shotfit.fitting.fit import fit
from shotfit.fitting.jobs import Embedding, Seen
from shotfit.fitting.parts import write_parts
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .pictures import save
from .test_jobs import DIES, METHODS, runs_of, scores_of
from .test_parts import content

COUNT = 45
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that all tests of this file share: commands of this process take it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # two towers
    with Cluster() as running:
        torch.set_num_threads(before)
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, one of which is broken, a backbone, a task and a model."""
    folder = tmp_path_factory.mktemp("ray")
    backbone, task = tiny_backbone(folder / "backbone"), tiny_task(folder / "task")
    fit(task, "tip_adapter", shots=1, backbone=backbone, store=MemoryStore()).save(folder / "model")
    for number in range(COUNT):
        save(folder / "photos" / f"{number:03}.png", seed=number)
    (folder / "photos" / "007.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, and the lines of standard error, of shotfit in an empty folder; `photos` and the rest lie beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shotfit.fitting.parts.TOLD_SECONDS", 3600)  # no line of progress on a busy machine
    for name in ("photos", "model", "backbone"):
        Path(name).symlink_to(home / name)

    def ran(*words: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main([*map(str, words), "--backbone", "backbone", "--part-size", "8"])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err.splitlines()

    return ran


# Without Ray


def test_importing_shotfit_never_imports_ray() -> None:
    code = "import sys, shotfit, shotfit.commands.cli as cli, shotfit.distributed.cluster, shotfit.evaluation.compare\n"
    code += "cli.main(['predict', '--help'])\nsys.exit(any(name.partition('.')[0] == 'ray' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.slow
def test_process_may_start_a_cluster_after_another() -> None:
    code = "from shotfit.distributed.cluster import Cluster\n"
    code += "for _ in range(2):\n    with Cluster() as running: print(running.cores)"
    known = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=known)
    assert (ran.returncode, ran.stdout) == (0, "1\n1\n"), ran.stderr


def test_interrupt_waits_while_ray_begins() -> None:
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a caller in the background has it ignored
    begun = False
    with pytest.raises(KeyboardInterrupt), _own_signals():
        signal.raise_signal(signal.SIGINT)
        begun = True
    assert begun and signal.signal(signal.SIGINT, was) is signal.default_int_handler


def test_absence_of_ray_is_one_line_with_its_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = "error: --engine ray needs Ray, which is not installed: pip install 'shotfit[ray]'."
    assert run("embed", "photos", "--out", "rows", "--engine", "ray") == (2, [line])
    assert not Path("rows").exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--engine", "spark"], 2, "--engine is 'spark'; expected ray, or nothing for this process alone."),
        (["--address", "auto"], 2, "--address goes with --engine ray: add it, or leave --address out."),
        (["--engine", "ray", "--address", "here"], 2, "--address is 'here'; expected HOST:PORT of a Ray cluster"),
        (["--engine", "ray", "--address", "ray://a:1"], 2, "--address is 'ray://a:1'; expected HOST:PORT of a Ray"),
    ],
)
def test_engine_and_address_are_checked(run: Run, words: list[str], code: int, line: str) -> None:
    found = run("predict", "model", "photos", "--out", "rows", *words)
    assert found[0] == code and [said[: len(line) + 7] for said in found[1]] == [f"error: {line}"]
    assert not Path("rows").exists()


def test_cluster_that_cannot_be_reached_is_one_line_within_seconds(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shotfit", "embed", str(home / "photos"), "--out", str(tmp_path / "rows")]
    began = time.monotonic()
    done = subprocess.run([*command, "--engine", "ray", "--address", "127.0.0.1:1"], capture_output=True, text=True)
    assert time.monotonic() - began < 30  # most of which is the start of Python on a busy machine
    assert done.returncode == 3 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: No Ray cluster answers at 127.0.0.1:1 (") and "ray start --head" in line
    assert not (tmp_path / "rows").exists()


# Parts


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "model", "photos"],
        pytest.param(["embed", "photos", "--dtype", "float16"], marks=pytest.mark.slow),
    ],
)
def test_rows_are_those_of_one_process_bit_for_bit(run: Run, words: list[str]) -> None:
    assert run(*words, "--out", "one")[0] == 4
    code, err = run(*words, "--out", "ray", "--engine", "ray")
    assert len(err) == 1, err
    line = err[0]
    assert code == 4 and line.startswith(f"written: ray: 6 parts, {COUNT} pictures, 1 not "), line
    assert content("one") == content("ray")
    again = run(*words, "--out", "ray", "--engine", "ray")
    assert again[0] == 4 and again[1][0].startswith("written: ray: 6 parts (6 there before)")


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
def test_error_of_a_worker_is_one_line_and_the_rest_can_go_on(run: Run) -> None:
    code, err = run("predict", "model", "photos", "--out", "ray", "--engine", "ray", "--strict")
    assert code == 3 and [line[:21] for line in err] == ["error: photos/007.png"]
    assert not Path("ray/part-00000.parquet").exists()


class Dying(Embedding):
    """Kills its process, and with it the worker, before the first part and before the third one is whole."""

    mark: Path

    def __reduce__(self) -> tuple[Any, ...]:
        _, given = super().__reduce__()
        return _dying, (self.mark, *given)

    def run(self, seen: Seen) -> pa.Table:
        for name in ("000.png", "016.png"):
            mark = self.mark / name
            if seen.names[0].endswith(name) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().run(seen)


def _dying(mark: Path, *given: Any) -> Dying:
    job = Dying(*given)
    job.mark = mark
    return job


@pytest.mark.slow
def test_workers_that_are_killed_are_replaced_and_no_row_is_lost_or_there_twice(
    cluster: Cluster, home: Path, tmp_path: Path
) -> None:
    backbone, sources = str(home / "backbone"), [str(home / "photos")]
    write_parts(Embedding(backbone), sources, tmp_path / "one", part_size=8)
    (tmp_path / "marks").mkdir()
    done = write_parts(
        _dying(tmp_path / "marks", backbone), sources, tmp_path / "ray", part_size=8, engine=cluster.engine()
    )
    assert {path.name for path in (tmp_path / "marks").iterdir()} == {"000.png", "016.png"}
    assert (done.parts, done.computed, done.broken) == (6, COUNT, 1)
    assert content(tmp_path / "one") == content(tmp_path / "ray")


@pytest.mark.slow
def test_round_that_is_lost_is_done_again(
    cluster: Cluster, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, sources = str(home / "backbone"), [str(home / "photos")]
    mark = tmp_path / "feed-died"

    class Once(Feed):
        async def get(self, place: int) -> bytes | None:
            if place == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return await super().get(place)

    monkeypatch.setattr(through_ray, "Feed", Once)
    done = write_parts(Embedding(backbone), sources, tmp_path / "ray", part_size=8, engine=cluster.engine())
    assert mark.exists() and (done.parts, done.computed) == (6, COUNT)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the cluster lost some parts (") and line.endswith("they are done again")
    names = [
        name
        for path in sorted((tmp_path / "ray").glob("*.parquet"))
        for name in pq.read_table(path)["image"].to_pylist()
    ]
    assert names == [str(path) for path in sorted((home / "photos").iterdir())]


def test_pixels_go_from_worker_to_worker_without_a_copy(home: Path) -> None:
    job = Embedding(str(home / "backbone"))
    size = job.shown.rule.size
    seen = Seen(("a", "b"), np.random.default_rng(0).integers(0, 255, (2, size, size, 3), np.uint8), {1: "is broken"})
    told, pixels = handed(seen)
    assert len(told) < 500 and np.shares_memory(np.asarray(pixels), seen.pixels)
    back = taken(told, bytes(pixels))  # as they lie in Ray's memory, which nobody may write to
    assert isinstance(back, Seen) and not back.pixels.flags.writeable
    assert job.run(back) == job.run(seen)
    assert taken(*handed(Failed("no", 3))) == Failed("no", 3)


def test_machine_that_would_compute_other_rows_is_told(home: Path, tmp_path: Path) -> None:
    job = Embedding(str(home / "backbone"))
    before, threads = Path.cwd(), torch.get_num_threads()
    other = Tower(pickle.dumps(job), tmp_path, job.asked | {"precision": "float64"}, str(before))
    torch.set_num_threads(threads)
    assert other.failed is not None
    failed = pickle.loads(other.failed)
    assert failed.exit_code == 3 and " would compute other rows (precision: " in failed.sentence
    with pytest.raises(ShotfitError, match=r"/nowhere is not a folder on .* under the same paths\.$"):
        stand_in("/nowhere")


@pytest.mark.slow
def test_interrupt_is_one_line_and_leaves_no_process(home: Path, tmp_path: Path) -> None:
    names = [str(path) for path in sorted((home / "photos").iterdir())] * 40
    (tmp_path / "list.txt").write_text("\n".join(names))
    command = [sys.executable, "-m", "shotfit", "embed", "list.txt", "--out", "rows", "--engine", "ray"]
    process = subprocess.Popen(
        [*command, "--part-size", "8", "--backbone", str(home / "backbone")],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    ends = time.monotonic() + 120
    while not (tmp_path / "rows" / "part-00000.parquet").exists() and time.monotonic() < ends:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    try:
        said, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert (process.returncode, said) == (130, "interrupted\n")


# Comparisons


@pytest.mark.slow
def test_comparison_on_ray_gives_the_table_of_one_process_and_goes_on(
    cluster: Cluster, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, backbone = tiny_task(tmp_path / "task"), tiny_backbone(tmp_path / "backbone")
    own, told = tmp_path / "own.py", list[Any]()
    own.write_text(DIES.format(mark=str(tmp_path / "mark")))
    methods = [*METHODS, f"{own}:Once"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    plain = compare(
        task, METHODS, [1], [1, 2], backbone=backbone, store=Store(tmp_path / "one"), out=tmp_path / "one.jsonl"
    )
    torch.set_num_threads(before)
    rows = compare(
        task, methods, [1], [1, 2], backbone=backbone, store=Store(tmp_path / "ray"), out=tmp_path / "ray.jsonl",
        jobs=2, engine=cluster.runs(),
    )  # fmt: skip
    err = capsys.readouterr().err
    assert "2 tasks of Ray, of 1 thread each" in err and "note: a process died (" in err
    alone, found = scores_of(tmp_path / "one.jsonl"), scores_of(tmp_path / "ray.jsonl")
    assert len(alone) == 6 and len(found) == 8 and alone.items() <= found.items()
    assert [(row.method, row.mean, row.spread) for row in plain] == [
        (row.method, row.mean, row.spread) for row in rows if row.method in METHODS
    ]
    compare(
        task, methods, [1], [1, 2], backbone=backbone, store=Store(tmp_path / "ray"), out=tmp_path / "ray.jsonl",
        jobs=2, engine=cluster.runs(), report=told.append,
    )  # fmt: skip
    assert all(run["resumed"] for run in told) and len(runs_of(tmp_path / "ray.jsonl")) == 8
