"""Numbers from outside, and a system that has no more to give: one line and the right exit code, nothing half written.

Commands run in this process where that is honest: signals, errors and limits are real ones.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shotfit import files
from shotfit.commands.cli import main
from shotfit.commands.outside import line_of, signals_end
from shotfit.files import HELD, write_atomically, write_folder
from shotfit.testing.tiny import tiny_backbone, tiny_task

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals, locks and devices as Unix has them")

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images in `photos`, a tiny backbone in `backbone`, a zero-shot model in `model`; it is where we are."""
    folder, before = tmp_path_factory.mktemp("outside"), Path.cwd()
    tiny_task(folder / "photos", images=2)
    tiny_backbone(folder / "backbone")
    os.chdir(folder)
    assert main(["fit", "--classes", "a,b", "--backbone", "backbone", "--out", "model"]) == 0
    yield folder
    os.chdir(before)


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs shotfit here: the exit code, and what stands on standard error."""

    def command(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, capsys.readouterr().err

    return command


def refused(result: tuple[int, str], code: int, sentence: str) -> None:
    assert result[0] == code, result
    assert "Traceback" not in result[1]
    (line,) = result[1].splitlines()
    assert line.startswith("error: ")
    assert sentence in line, line
    assert "this is a bug" not in line
    assert len(line) < 2100


DIGITS = "9" * 5000
COOP = ("fit", "photos", "--backbone", "backbone", "--method", "coop", "--out", "never")
COMPARED = ("compare", "photos", "--backbone", "backbone", "--shots", "1", "--out", "never.jsonl", "--methods")


@pytest.mark.parametrize(
    "words, code, sentence",
    [
        ((*COOP, f"--views={DIGITS}"), 2, "--views is"),
        ((*COOP, f"--steps={DIGITS}"), 2, "Invalid value for '--steps'"),
        ((*COOP, "--steps=" + "9" * 400), 2, "expected a whole number from 1 to 4,294,967,295"),
        ((*COOP, "--lr=nan"), 2, "must be a number above 0, but is nan"),
        ((*COOP, "--lr=1e400"), 2, "must be a number above 0, but is inf"),
        ((*COOP, f"--memory={DIGITS}"), 2, "is no size"),
        ((*COOP, "--set", f"length={DIGITS}"), 2, "length must be a whole number"),
        ((*COOP, "--set", "length=1000000000"), 2, "at least 1, at most 1,000,000, but is 1000000000"),
        ((*COMPARED, f"coop+steps={DIGITS}"), 2, "'coop+steps=9999"),
        ((*COMPARED, "tip_adapter+beta_steps=1000000"), 2, "at most 10000"),
        ((*COMPARED, "dualadapter+beta_grid=0,7,999999999"), 2, "at most 10,000"),
        ((*COMPARED, "zero_shot", f"--shots={DIGITS}"), 2, "--shots is"),
        (("predict", "model", "photos", "--backbone", "backbone", "--coverage", "nan"), 2, "--coverage"),
        (("fit", "photos", "--backbone", "~nouser/backbone"), 3, "~nouser/backbone does not exist"),
        (("fit", "photos", "--backbone", "x" * 300), 3, "File name too long"),
        (("doctor", "x" * 300), 3, "File name too long"),
        (("doctor", "x/" * 3000), 3, "File name too long"),
        (("fit", "--tasks", "x" * 300 + ".toml"), 3, "File name too long"),
        (("predict", "x" * 300, "photos"), 3, "File name too long"),
        (("fit", "--classes", "@" + "x" * 300), 2, "File name too long"),
        (("fit", "--classes", "a", "--backbone", "backbone", "--out", "x" * 300), 3, "File name too long"),
        (("show", "x" * 300 + ".py:Method"), 3, "File name too long"),
    ],
    ids=lambda value: None if not isinstance(value, tuple) else " ".join(value)[-30:],
)
def test_number_or_name_from_outside_is_one_line(run: Run, words: tuple[str, ...], code: int, sentence: str) -> None:
    refused(run(*words), code, sentence)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("deep.toml", "a = " + "[" * 2000 + "]" * 2000, "nests tables or lists more than 16 deep"),
        ("dots.toml", "a." * 50000 + "a = 1", "nests tables or lists more than 16 deep"),
        ("digits.toml", f"[[task]]\ndata = {DIGITS}", "digits"),
        ("hexadecimal.toml", "[[task]]\nname = 0x" + "f" * 9000, "whole number of more than 64 bits"),
        ("keys.toml", "\n".join(f"a.b{i} = 1" for i in range(50000)), "has the unknown key 'a'"),
        ("zero.toml", '[[task]]\ndata = "a\\u0000b"', "does not exist"),
        ("deep.jsonl", '{"path": ' + "[" * 10**5, "not valid JSON"),
        ("split.json", '{"train": [[' + "[" * 900 + "]" * 900 + "]]}", "expected [path, label, class name]"),
        ("split_digits.json", '{"train": [["a", ' + DIGITS + ', "b"]]}', "is not valid JSON"),
        ("nan.jsonl", '{"path": "a", "label": NaN}', "the label is NaN; expected text or a whole number"),
        ("zero.jsonl", '{"path": "a\\u0000b", "label": "c"}', "is no path"),
    ],
)
def test_file_of_odd_numbers_or_depth_is_one_line(
    run: Run, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    words = ("fit", "--backbone", "backbone", "--tasks") if name.endswith(".toml") else ("doctor",)
    refused(run(*words, tmp_path / name), 3, sentence)


def test_endless_line_on_standard_input_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open(encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        refused(run("predict", "model", "-", "--backbone", "backbone"), 3, "expected a path a line")


def shotfit(command: str) -> subprocess.CompletedProcess[str]:
    """A command of the shell, in which `shotfit` is the module."""
    whole = f'shotfit() {{ "{sys.executable}" -m shotfit "$@"; }}; {command}'
    return subprocess.run(["sh", "-c", whole], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_full_output_is_one_line_and_no_success(home: Path) -> None:
    done = shotfit("shotfit --help > /dev/full")
    refused((done.returncode, done.stderr), 3, "standard output cannot be written: the disk is full")
    assert shotfit("shotfit doctor none 2> /dev/full").returncode == 3


def test_closed_streams_lead_nowhere_and_into_no_file(home: Path) -> None:
    done = shotfit("shotfit fit --classes a,b --backbone backbone --out closed >&- 2>&- <&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for file in (home / "closed").iterdir():
        assert b"saved closed" not in file.read_bytes()


def test_reader_that_has_enough_is_no_error(home: Path) -> None:
    done = shotfit("shotfit --help | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_deleted_folder_is_one_line(home: Path) -> None:
    (home / "gone").mkdir()
    done = shotfit(f'cd gone; rmdir ../gone; shotfit doctor "{home}/photos"')
    refused((done.returncode, done.stderr), 3, "the folder that you are in is gone")


def test_too_few_descriptors_are_one_line(home: Path, run: Run) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    Path("few.csv").write_text("path,label\nphotos/blue/0.png,a\n")
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        result = run("doctor", "few.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    refused(result, 3, "too many files are open")


@pytest.mark.parametrize(
    "error, sentence",
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (OSError(errno.EROFS, "Read-only file system", "rows.csv"), "rows.csv cannot be used: Read-only file system"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr("shotfit.commands.describe.overview", refuse)
    refused(run("methods"), 3, sentence)


def test_bug_is_not_taken_for_the_system() -> None:
    assert line_of(ValueError("x")) is None
    assert line_of(RuntimeError("shapes do not match")) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_while_saving_leaves_nothing(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    flush = os.fsync

    def signalled(handle: int) -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # `timeout` sends it twice
        flush(handle)

    monkeypatch.setattr(os, "fsync", signalled)
    before = {path.name for path in home.iterdir()}
    code, err = run("fit", "--classes", "a,b", "--backbone", "backbone", "--out", "ended")
    assert (code, err.splitlines()) == (130, [f"ended by {signal.Signals(number).name}"])
    assert {path.name for path in home.iterdir()} == before
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of files that are closed late
def test_signal_at_any_step_of_writing_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    for last in range(10_000):
        folder, old, steps = tmp_path / f"step-{last}", {"a": b"old"}, 0
        write_folder(folder / "model", old)

        def stop(frame: FrameType, event: str, argument: object, last: int = last) -> Any:
            nonlocal steps
            if frame.f_code.co_filename != files.__file__:
                return None
            if steps == last:
                os.kill(os.getpid(), signal.SIGTERM)
            steps += 1
            return stop

        with suppress(KeyboardInterrupt), signals_end() as received:
            sys.settrace(stop)
            try:
                write_folder(folder / "model", {"a": b"new", "b": b""})
            finally:
                sys.settrace(None)
        assert {path.name for path in folder.iterdir()} == {"model"}, f"step {last}"
        found = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
        assert found in (old, {"a": b"new", "b": b""}), f"step {last}"
        if not received:
            break
    assert not received
    assert last > 100


def test_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; import shotfit.files as f\n"
        "f.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "f.write_folder(Path(sys.argv[1]), {'a': b'1'})"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path / "model")], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(HELD)
    (tmp_path / ".shotfit-notes").touch()  # of an older version, or somebody's
    seen: list[bool] = []

    class Content(dict[str, bytes]):
        def items(self) -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
            write_atomically(tmp_path / "rows.csv", b"2")  # while another writer is at work
            (own,) = tmp_path.glob(f"{HELD}*")
            seen.append(own.is_dir() and own != left)
            return iter({"a": b"1"}.items())

    write_folder(tmp_path / "model", Content())
    assert seen == [True]
    assert {path.name for path in tmp_path.iterdir()} == {".shotfit-notes", "model", "rows.csv"}
    assert (tmp_path / "model" / "a").read_bytes() == b"1"


def test_thread_that_cannot_begin_for_want_of_memory_ends_the_command(home: Path) -> None:
    code = (
        "import sys, threading\n"
        "from shotfit.commands import cli, outside\n"
        "def place():\n"
        "    threading.Thread(target=None).start()\n"
        "def bootstrap(self):\n"
        "    raise MemoryError\n"
        "threading.Thread._bootstrap = bootstrap\n"
        "cli.check_place = place\n"
        "sys.exit(cli.main(['methods']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (3, "") and ran.stderr.startswith("error: out of memory.")
    assert ran.stderr.count("\n") == 1
