"""Attacks on the command line: what is made, how it is run, and what counts as a fault.

    python -m tests.attacks.runner images --seed 7                      all attacks of a family
    python -m tests.attacks.runner images --seed 7 --only png_bomb:0    one again; its files stay, its output is printed

A family is a table of kinds: a function a kind, which gets an empty folder (`Place`) and a random generator of its own,
writes hostile files there and gives the command to run (`Case`). Nothing else decides what an attack is, so that seed,
kind and number repeat it.

Families run in one process that imports shotfit once and forks for each attack, before any thread runs. The child
calls what the console script calls. What must hold afterwards:

    exit code       0, 2, 3, 4 or 130
    time            10 s of processor, or of waiting
    memory          1.5 GB
    output          no traceback, bug line, panic, control character or line of more than 10,000 characters; UTF-8
    files           nothing half-written; no trace of code that ran
"""

from __future__ import annotations

import argparse
import ctypes
import io
import math
import os
import resource
import shlex
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["Case", "Family", "Outcome", "Place", "judge", "run_family"]

CODES = (0, 2, 3, 4, 130)
SECONDS, STARVED_SECONDS = 10.0, 180.0  # the second: on a machine that does much else
MEMORY = 1_500 * 10**6
ADDRESSES = 4 * 2**30  # of a child, so that no bomb fills the machine
FILE_BYTES = 2**30
LINE, OUTPUT = 10_000, 10**7  # characters of a line; bytes that are looked at
RAN = "code-ran"  # the file that a payload would leave
TORCH_START = 2.0  # seconds that a process of its own may take longer
PROCESSES = 0.01  # share of attacks that run as a process of their own

Maker = Callable[["Place", Random], "Case"]


@dataclass
class Case:
    """A command and how it is run.

    environ: variables that are set, or removed (None). before: runs in the child, last. signal: (seconds, number), sent
    to the child after the start of the command. streams: where 0, 1 and 2 lead, by number, as a path, or "closed", or
    "broken" (a pipe that nobody reads). process: run as a process of its own. twins: so many at once. after: gives
    faults of its own, from the folder. crashes: whether a library may end the process by SIGSEGV or SIGABRT, which the
    command line cannot turn into a line: the system refuses it memory in the middle of its own work.
    """

    command: list[str]
    environ: dict[str, str | None] = field(default_factory=dict)
    stdin: bytes = b""
    before: Callable[[], None] | None = None
    signal: tuple[float, int] | None = None
    streams: dict[int, str] = field(default_factory=dict)
    process: bool = False
    twins: int = 1
    after: Callable[[], list[str]] | None = None
    crashes: bool = False


@dataclass
class Place:
    """An attack's folder, which is the child's working folder, and the assets that it may copy."""

    folder: Path
    base: Path
    before: frozenset[Path] = frozenset()

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        return path

    def copy(self, asset: str, name: str = "") -> Path:
        """A copy of a folder or file of the assets: task, backbone, hf, open_clip, openai.pt, models/METHOD."""
        source, target = self.base / asset, self.folder / (name or Path(asset).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))

    @property
    def backbone(self) -> list[str]:
        return ["--backbone", str(self.base / "backbone")]

    def predict(self, *images: str | Path, method: str = "zero_shot") -> list[str]:
        return ["predict", str(self.base / "models" / method), *map(str, images), *self.backbone]


@dataclass
class Outcome:
    """What came of it. code: negative for a signal; seconds of the clock and of the processor; bytes at most."""

    code: int
    seconds: float
    processor: float
    memory: int
    output: bytes
    errors: bytes
    stuck: str = ""


class Family:
    """A table of kinds of attack."""

    def __init__(self, name: str) -> None:
        self.name, self.kinds = name, dict[str, tuple[Maker, int]]()

    def kind(self, times: int = 1, name: str = "") -> Callable[[Maker], Maker]:
        """Register a function; `times` attacks of the kind are made."""

        def register(make: Maker) -> Maker:
            self.add(name or make.__name__, make, times)
            return make

        return register

    def add(self, name: str, make: Maker, times: int = 1) -> None:
        assert name not in self.kinds, name
        self.kinds[name] = make, times

    def attacks(self, rounds: float = 1) -> Iterator[tuple[str, int, Maker]]:
        """Kind, number and function of each; of every kind at least one."""
        for name, (make, times) in self.kinds.items():
            for number in range(math.ceil(times * rounds)):
                yield name, number, make


BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


def control_characters(text: str) -> set[str]:
    """Characters that a terminal obeys, or that turn the direction of what it shows; new lines and tabs are none."""
    return {c for c in text if c not in "\n\t" and (c in BIDI or unicodedata.category(c) in ("Cc", "Cs"))}


def judge(outcome: Outcome, place: Place, case: Case) -> list[str]:
    """What is wrong with an outcome, in words; nothing is the rule."""
    faults = [outcome.stuck] if outcome.stuck else []
    codes = (*CODES, -signal.SIGSEGV, -signal.SIGABRT) if case.crashes else CODES
    if outcome.code not in codes and not outcome.stuck:
        faults.append(f"exit {outcome.code}")
    if outcome.memory > MEMORY:
        faults.append(f"memory {outcome.memory / 1e6:,.0f} MB")
    for name, content in (("stdout", outcome.output), ("stderr", outcome.errors)):
        text = content.decode(encoding_of(case), "surrogateescape")
        for words in ("Traceback (most", "this is a bug", "panicked at", "Exception ignored", "terminate called"):
            if words in text:
                faults.append(f"{words!r} on {name}")
        odd = control_characters(text)
        if odd and not (name == "stdout" and "csv" in case.command):  # CSV keeps names exact, for programs
            faults.append(f"control characters on {name}: {' '.join(sorted(map(ascii, odd)))[:60]}")
        longest = max((len(line) for line in text.split("\n") if line[:1] != "{"), default=0)  # JSON may be long
        if longest > LINE:
            faults.append(f"a line of {longest:,} characters on {name}")
    if outcome.code in (2, 3) and not (outcome.errors + outcome.output).strip() and not case.streams:
        faults.append(f"exit {outcome.code} without a word")
    found = [str(path.relative_to(place.folder)) for path in walked(place.folder) if path not in place.before]
    # in the cache, what a writer held when a signal ended it is removed by the next one
    lost = [name for name in found if not (case.signal and ".cache" in Path(name).parts)]
    faults += [f"left {name}" for name in lost if Path(name).name.startswith(".shotfit-")][:3]
    faults += ["code ran" for name in found if Path(name).name == RAN]
    return faults + (case.after() if case.after else [])


def encoding_of(case: Case) -> str:
    """In which a case asks for its output."""
    return (case.environ.get("PYTHONIOENCODING") or "").partition(":")[0] or "utf-8"


def walked(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent) / name for name in (*folders, *files))


def run(case: Case, place: Place) -> Outcome:
    """Fork, run the command in the child, and wait for it."""
    logs = [place.folder.with_name(f"{place.folder.name}.{name}") for name in ("out", "err", "in")]
    logs[2].write_bytes(case.stdin)
    ready, tell = os.pipe()
    started = time.monotonic()
    children = []
    for _ in range(case.twins):
        child = os.fork()
        if child == 0:
            os.close(ready)
            _be_the_child(case, place, logs, tell)
        children.append(child)
    os.close(tell)
    if case.signal:
        os.read(ready, 1)
        time.sleep(case.signal[0])
        with suppress(ProcessLookupError):
            os.kill(children[0], case.signal[1])
    ended = [_waited(child, started, case) for child in children]
    os.close(ready)
    worst = max(ended, key=lambda one: (bool(one.stuck), one.code not in CODES, one.memory))
    worst.output, worst.errors = (path.read_bytes()[:OUTPUT] if path.exists() else b"" for path in logs[:2])
    for path in logs:
        path.unlink(missing_ok=True)
    return worst


def _waited(child: int, started: float, case: Case) -> Outcome:
    """Wait for a child; one that takes too long is killed with all that it started."""
    stuck, pause, seen, moved = "", 0.002, -1.0, started
    extra = TORCH_START if case.process else 0.0
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        now = time.monotonic()
        if pid:
            break
        spent, running = _processor(child)
        if spent > seen or running:  # a machine that does much else gives it nothing for long, and it waits for that
            seen, moved = spent, now
        waits = now - started > SECONDS + extra and now - moved > SECONDS / 2
        if spent > SECONDS + extra or waits or now - started > STARVED_SECONDS:
            stuck = f"hangs ({now - started:.0f} s, {spent:.0f} s of processor)"
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            break
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    spent = used.ru_utime + used.ru_stime
    waited = time.monotonic() - started
    return Outcome(os.waitstatus_to_exitcode(status), waited, spent, used.ru_maxrss * 1024, b"", b"", stuck)


def _processor(child: int) -> tuple[float, bool]:
    """Seconds of the processor that a process has used, and whether it asks for more."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, False
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "R"


def _be_the_child(case: Case, place: Place, logs: list[Path], tell: int) -> None:
    """Never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        os.chdir(place.folder)
        os.environ.update(
            SHOTFIT_CACHE=str(place.folder / ".cache"), HOME=str(place.folder), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"
        )
        for name, value in case.environ.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        if hasattr(time, "tzset"):
            time.tzset()
        for limit, most in (
            (resource.RLIMIT_AS, ADDRESSES),
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, 120),
        ):
            resource.setrlimit(limit, (most, most))
        for number, path, flags in ((0, logs[2], os.O_RDONLY), (1, logs[0], _NEW), (2, logs[1], _NEW)):
            _lead(number, case.streams.get(number, str(path)), flags)
        os.write(tell, b".")
        os.close(tell)
        if case.before:
            case.before()
        if case.process:
            os.execv(sys.executable, [sys.executable, "-m", "shotfit", *case.command])
        code = _as_the_console_script(case.command)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def _lead(number: int, where: str, flags: int) -> None:
    if where == "closed":
        os.close(number)
        return
    if where == "broken":
        reader, handle = os.pipe()
        os.close(reader)
    else:
        handle = os.open(where, flags, 0o666)
    os.dup2(handle, number)
    if handle != number:
        os.close(handle)


def _as_the_console_script(command: list[str]) -> int:
    """What `sys.exit(main())` does, and what the interpreter does at its end."""
    sys.stdin, sys.stdout, sys.stderr = (_stream(number, mode) for number, mode in enumerate("rww"))
    sys.argv = ["shotfit", *command]
    from shotfit.commands.cli import main

    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except BaseException:
                with suppress(BaseException):
                    print("Exception ignored while flushing", file=sys.stderr, flush=True)
                return 120
    return code


def _stream(number: int, mode: str) -> Any:
    try:
        os.fstat(number)
    except OSError:
        return None
    coding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    errors = errors or ("backslashreplace" if number == 2 else "strict")
    raw = os.fdopen(number, f"{mode}b", closefd=False)
    return io.TextIOWrapper(raw, encoding=coding or "utf-8", errors=errors, line_buffering=number == 2)


def without_privileges() -> None:
    """Root, as which tests run in containers, may write everywhere: what a file's mode forbids holds from here on."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    ctypes.CDLL(None).syscall({"x86_64": 126, "aarch64": 91}[os.uname().machine], header, (ctypes.c_uint32 * 6)())


def run_family(family: Family, seed: str, base: Path, work: Path, rounds: float = 1, only: str = "") -> list[str]:
    """Run the attacks of a family; gives a line for each that shows a fault."""
    failures, took = list[str](), list[tuple[float, str]]()
    wanted, _, numbered = only.partition(":")
    for kind, number, make in family.attacks(rounds):
        if wanted and (kind != wanted or numbered not in ("", str(number))):
            continue
        place = Place(work / f"{family.name}-{kind}-{number}", base)
        place.folder.mkdir(parents=True)
        random = Random(f"{seed}/{family.name}/{kind}/{number}")
        case = make(place, random)
        if case.command[:1] == ["doctor"] and "--backbone" not in case.command:  # mini's loading was half of the time
            case.command[1:1] = place.backbone
        if case.before is None and case.signal is None and case.twins == 1:
            case.process |= random.random() < PROCESSES
        place.before = frozenset(walked(place.folder))
        outcome = run(case, place)
        faults = judge(outcome, place, case)
        if faults or only:
            again = f"python -m tests.attacks.runner {family.name} --seed {seed} --only {kind}:{number}"
            said = "".join(outcome.errors.decode("utf-8", "replace").strip().rpartition("error:")[1:])
            line = f"{family.name} {kind}:{number}: {'; '.join(faults) or 'no fault'}\n    again: {again}\n"
            line += f"    command: shotfit {' '.join(map(shlex.quote, case.command))!a}\n    said: {said[:300]!a}"
            if faults:
                failures.append(line)
            print(line, flush=True)
        took.append((outcome.processor, f"{kind}:{number}"))
        if only:
            print(outcome.output.decode("utf-8", "replace")[:4000].encode("ascii", "backslashreplace").decode())
            print(outcome.errors.decode("utf-8", "replace")[:8000].encode("ascii", "backslashreplace").decode())
            print(f"exit {outcome.code}, {outcome.seconds:.2f} s, {outcome.memory / 1e6:,.0f} MB; {place.folder}")
        else:
            shutil.rmtree(place.folder, ignore_errors=True)
    slowest = ", ".join(f"{name} {seconds:.1f} s" for seconds, name in sorted(took, reverse=True)[:5])
    total = sum(seconds for seconds, _ in took)
    print(
        f"seed {seed}: {len(took)} attacks in {total:.0f} s of processor, {len(failures)} faults; {slowest}", flush=True
    )
    return failures


def main() -> int:
    """Run families, or one attack of one."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}  # before numpy
    import tempfile

    from tests.attacks import assets
    from tests.attacks.families import FAMILIES

    parser = argparse.ArgumentParser(description="Attack the command line of shotfit.")
    parser.add_argument("families", nargs="+", metavar="family", choices=FAMILIES)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--rounds", type=float, default=1, help="so many times as many attacks of each kind")
    parser.add_argument("--only", default="", help="KIND or KIND:NUMBER")
    parser.add_argument("--base", type=Path, help="the assets; made where they are not there")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="attack-"))
    base = assets.made(asked.base or work / "base")
    assets.import_all()
    try:
        failures = [
            failure
            for family in asked.families
            for failure in run_family(FAMILIES[family], asked.seed, base, work, asked.rounds, asked.only)
        ]
    finally:
        if not asked.only:
            shutil.rmtree(work, ignore_errors=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
