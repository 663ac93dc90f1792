"""Hostile surroundings: streams, limits, permissions, variables, signals, a damaged cache, a full disk, many at once."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.attacks.runner import Case, Family, Place, without_privileges
from tests.attacks.values import NAMES, SPECIAL

__all__ = ["ENVIRONMENT"]

ENVIRONMENT = Family("environment")
FILES = {"adapter.json", "adapter.safetensors", "README.md"}


def asked(place: Place, random: Random, *, writes: bool = False) -> Case:
    """A command that does some of everything; with `writes`, one that writes a model."""
    task, out = str(place.base / "task"), str(place.folder / "out" / "model")
    fits = [
        ["fit", task, "--method", "zero_shot", "--recipe", "paper", "--out", out, *place.backbone],
        [
            "fit",
            task,
            "--method",
            "coop",
            "--recipe",
            "paper",
            "--steps",
            "3",
            "--views",
            "1",
            "--out",
            out,
            *place.backbone,
        ],
        ["fit", "--classes", "a,b", "--out", out, *place.backbone, "--json"],
    ]
    others = [
        place.predict(task, "--format", random.choice(["table", "csv", "jsonl"])),
        ["evaluate", str(place.base / "models" / "zero_shot"), task, "--all", *place.backbone],
        ["doctor", task],
        ["cache", "--json"],
        ["cache", "--clear"],
        ["methods"],
        ["--help"],
        ["--version"],
    ]
    case = Case(random.choice(fits if writes else [*fits, *others, *others[:3]]))
    case.after = lambda: half_written(Path(out))
    return case


def half_written(folder: Path) -> list[str]:
    """What is wrong with a model that a command was to write: it is whole, or not there."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} >= FILES:
        return []
    return [f"half a model: {sorted(path.name for path in folder.iterdir())}"]


Around = Callable[[Place, Random, Case], None]


def around(times: int = 3, writes: bool = False) -> Callable[[Around], Around]:
    """Register a change of what is around a command."""

    def register(change: Around) -> Around:
        def make(place: Place, random: Random) -> Case:
            case = asked(place, random, writes=writes)
            change(place, random, case)
            return case

        ENVIRONMENT.add(change.__name__, make, times)
        return change

    return register


# Streams

for name, numbers, where in (
    ("stdin_closed", [0], "closed"),
    ("stdout_closed", [1], "closed"),
    ("stderr_closed", [2], "closed"),
    ("all_closed", [0, 1, 2], "closed"),
    ("stdout_full", [1], "/dev/full"),
    ("stderr_full", [2], "/dev/full"),
    ("both_full", [1, 2], "/dev/full"),
    ("stdout_broken", [1], "broken"),
    ("stderr_broken", [2], "broken"),
    ("both_broken", [1, 2], "broken"),
):

    def streams(place: Place, random: Random, numbers: list[int] = numbers, where: str = where) -> Case:
        case = asked(place, random)
        case.streams = dict.fromkeys(numbers, where)
        if numbers == [0]:
            case.command = place.predict("-") if random.random() < 0.7 else case.command
        return case

    ENVIRONMENT.add(name, streams, 2)


@ENVIRONMENT.kind(2)
def streams_of_a_process(place: Place, random: Random) -> Case:
    """As above, with the interpreter's own end."""
    case = asked(place, random)
    number, where = random.choice([(1, "/dev/full"), (1, "broken"), (1, "closed"), (2, "/dev/full"), (0, "closed")])
    case.streams, case.process = {number: where}, True
    return case


@ENVIRONMENT.kind(4)
def stdin_flood(place: Place, random: Random) -> Case:
    content = random.choice(
        [b"x" * 5 * 10**7, b"\0" * 10**6, random.randbytes(10**5), b"\n" * 10**6, b"\x1b[2J\n" * 100, b"a\n" * 3000]
    )
    return Case(place.predict("-", "--format", "jsonl"), stdin=content)


# Limits


def limited(limit: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(limit, (value, value))


@around(4)
def few_descriptors(place: Place, random: Random, case: Case) -> None:
    case.before = limited(resource.RLIMIT_NOFILE, random.choice([4, 6, 8, 12, 20]))


def _in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@around(6)
def little_memory(place: Place, random: Random, case: Case) -> None:
    more = random.choice([0, 2, 10, 40, 100, 200]) * 10**6
    case.crashes = True
    case.before = lambda: resource.setrlimit(resource.RLIMIT_AS, (_in_use() + more,) * 2)


@around(5, writes=True)
def small_files(place: Place, random: Random, case: Case) -> None:
    case.before = limited(resource.RLIMIT_FSIZE, random.choice([0, 1, 100, 2000, 20_000]))
    case.streams = {1: "/dev/null", 2: "/dev/null"}  # else the bound is also that of what it prints


@around(2)
def small_stack(place: Place, random: Random, case: Case) -> None:
    case.before = limited(resource.RLIMIT_STACK, random.choice([100_000, 1_000_000]))


@around(2)
def locked_down(place: Place, random: Random, case: Case) -> None:
    case.before = limited(random.choice([resource.RLIMIT_MEMLOCK, resource.RLIMIT_NPROC]), 0)


def _small_disk(folder: Path, size: int) -> Callable[[], None]:
    """A file system of so many bytes, which only the child sees; a bound on files where that is not allowed."""

    def before() -> None:
        library = ctypes.CDLL(None, use_errno=True)
        private = library.unshare(0x20000) == 0 and library.mount(b"none", b"/", None, 0x44000, None) == 0
        mounted = private and library.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) == 0
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return before


@around(6, writes=True)
def full_disk(place: Place, random: Random, case: Case) -> None:
    where = random.choice([".cache", "out"])
    (place.folder / where).mkdir()
    case.before = _small_disk(place.folder / where, random.choice([4096, 8192, 16_384, 40_960]))
    case.after = None  # what was written there is gone


# Folders and permissions


def gone(folder: Path) -> Callable[[], None]:
    def before() -> None:
        os.chdir(folder)
        folder.rmdir()

    return before


@around(5)
def working_folder_deleted(place: Place, random: Random, case: Case) -> None:
    (place.folder / "here").mkdir()
    case.before = gone(place.folder / "here")
    case.after = None
    relative = random.choice(
        [
            ["fit", "--classes", "a,b", "--out", "x", *place.backbone],
            ["doctor", "x"],
            ["doctor", "."],
            place.predict("x.jpg"),
            case.command,
        ]
    )
    case.command = relative


@around(3)
def working_folder_forbidden(place: Place, random: Random, case: Case) -> None:
    (place.folder / "here").mkdir()

    def before() -> None:
        os.chdir(place.folder / "here")
        os.chmod(".", 0)  # noqa: PTH101
        without_privileges()

    case.before = before


def forbidden(*names: str) -> Around:
    def change(place: Place, random: Random, case: Case) -> None:
        for name in names:
            (place.folder / name).mkdir(parents=True, exist_ok=True)
        mode = random.choice([0, 0o444, 0o555, 0o111])

        def before() -> None:
            for name in names:
                os.chmod(place.folder / name, mode)  # noqa: PTH101
            without_privileges()

        case.before = before
        case.after = None

    return change


for name, folders in (
    ("cache_forbidden", [".cache"]),
    ("out_forbidden", ["out"]),
    ("all_forbidden", [".cache", "out", "."]),
):
    change = forbidden(*folders)
    change.__name__ = name
    around(3, writes=True)(change)


@around(2)
def home_forbidden(place: Place, random: Random, case: Case) -> None:
    case.environ = {"HOME": "/proc", "SHOTFIT_CACHE": None, "XDG_CACHE_HOME": None}


@around(3)
def home_odd(place: Place, random: Random, case: Case) -> None:
    case.environ = {
        "HOME": random.choice([None, "", "relative", "/dev/null", "x" * 5000, "/\x1b[2J", "~"]),
        "SHOTFIT_CACHE": None,
    }


@around(6, writes=True)
def out_special(place: Place, random: Random, case: Case) -> None:
    (place.folder / "out").mkdir()
    SPECIAL[random.choice([*SPECIAL])](place.folder / "out" / "model")
    case.after = None


@around(6, writes=True)
def out_named(place: Place, random: Random, case: Case) -> None:
    odd = random.choice(
        [*NAMES.values(), "x" * 300, "a/" * 2000, "~nouser/x", "", ".", "..", "/", "/proc/x", "/dev/null/x"]
    )
    case.command = [*case.command, f"--out={odd}"]
    case.after = None


@around(2, writes=True)
def umask_of_nothing(place: Place, random: Random, case: Case) -> None:
    def before() -> None:
        os.umask(0o777)
        if random.random() < 0.5:
            without_privileges()

    case.before = before


# The cache


@around(6)
def cache_special(place: Place, random: Random, case: Case) -> None:
    SPECIAL[random.choice([*SPECIAL])](place.folder / ".cache")


def warmed(place: Place) -> list[Path]:
    """The files of a cache that a fit has filled, which is made once."""
    shutil.copytree(place.base / "warm", place.folder / ".cache")
    return sorted(path for path in (place.folder / ".cache").rglob("*") if path.is_file())


@around(8)
def cache_damaged(place: Place, random: Random, case: Case) -> None:
    """Bytes of the cache's files are changed, cut off or replaced."""
    for path in warmed(place):
        if random.random() < 0.3:
            continue
        content = bytearray(path.read_bytes())
        for _ in range(random.choice([1, 3, 30])):
            content[random.randrange(min(len(content), random.choice([100, 10**6])))] = random.randrange(256)
        path.write_bytes(
            random.choice(
                [*[bytes(content)] * 2, bytes(content[: random.randrange(len(content))]), b"", random.randbytes(500)]
            )
        )


@around(8)
def cache_files_special(place: Place, random: Random, case: Case) -> None:
    for path in random.sample(warmed(place), 2):
        path.unlink()
        random.choice([*SPECIAL.values()])(path)


@around(3)
def cache_forbidden_files(place: Place, random: Random, case: Case) -> None:
    paths = [*warmed(place), *(path for path in (place.folder / ".cache").rglob("*") if path.is_dir())]

    def before() -> None:
        for path in random.sample(paths, 3):
            os.chmod(path, 0)  # noqa: PTH101
        without_privileges()

    case.before = before


@around(3)
def cache_links_in_circles(place: Place, random: Random, case: Case) -> None:
    warmed(place)
    for folder in [*(place.folder / ".cache").rglob("*")]:
        if folder.is_dir():
            (folder / "again").symlink_to(random.choice([place.folder, folder, Path("/proc/self")]))


# Variables


@around(8)
def variables_of_shotfit(place: Place, random: Random, case: Case) -> None:
    odd = random.choice(
        [
            "",
            " ",
            "x" * 5000,
            "9" * 5000,
            "-1",
            "nan",
            "1e999GB",
            "\x1b[2J",
            "~nouser/x",
            "/dev/null",
            "/proc/self/mem",
            "a\rb",
            "0",
            "caf\udce9",
            "../" * 2000,
        ]
    )
    case.environ = {random.choice(["SHOTFIT_CACHE", "SHOTFIT_CACHE_LIMIT", "SHOTFIT_CACHE_LIMIT"]): odd}


@around(5)
def variables_of_the_terminal(place: Place, random: Random, case: Case) -> None:
    case.environ = {
        "TERM": random.choice(["dumb", "", "x" * 5000, "\x1b[2J", None]),
        "COLUMNS": random.choice(["0", "-1", "1", "9" * 5000, "x", "100000"]),
        "LINES": random.choice(["0", "x"]),
        random.choice(["NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "PY_COLORS"]): random.choice(
            ["1", "0", ""]
        ),
    }
    if random.random() < 0.5:
        case.command = random.choice([["--help"], ["fit", "--help"], ["predict", "-h"], ["methods"], ["show", "coop"]])


@around(3)
def variables_of_libraries(place: Place, random: Random, case: Case) -> None:
    case.environ = {
        random.choice(
            ["TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"]
        ): random.choice(["", "/dev/null", "/proc", "\x1b", "x" * 5000]),
        "CUDA_VISIBLE_DEVICES": random.choice(["", "-1", "99", "x"]),
    }


@ENVIRONMENT.kind(5)
def encodings(place: Place, random: Random) -> Case:
    """Names that the encoding of the terminal does not know, in a process of its own."""
    task = place.copy("task")
    (task / "blue").rename(task / random.choice(["blåu", "caf\udce9", "青", "b\x1bl"]))
    case = Case(random.choice([["doctor", str(task)], place.predict(task), ["doctor", str(task), "--json"]]))
    case.environ = random.choice(
        [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "ascii:strict"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LANG": "xx_YY.nothing", "LC_ALL": "\x1b"},
         {"PYTHONIOENCODING": "latin-1"}]
    )  # fmt: skip
    case.process = random.random() < 0.4
    return case


@ENVIRONMENT.kind(2)
def variables_of_python(place: Place, random: Random) -> Case:
    case = asked(place, random)
    case.environ = random.choice(
        [
            {"PYTHONWARNINGS": "error"},
            {"PYTHONOPTIMIZE": "2"},
            {"OMP_NUM_THREADS": "x"},
            {"OMP_NUM_THREADS": "-1"},
            {"PYTHONDEVMODE": "0"},
        ]
    )
    case.process = True
    return case


@around(3)
def time_zones(place: Place, random: Random, case: Case) -> None:
    case.environ = {"TZ": random.choice(["", "x" * 500, ":/dev/zero", "UTC-99", "/proc/self/mem", "Mars/Base"])}


@ENVIRONMENT.kind(4)
def clocks(place: Place, random: Random) -> Case:
    """Files from before the epoch, from the future, and such as change."""
    task = place.copy("task")
    for path in task.rglob("*"):
        stamp = random.choice([0, -(10**9), 2**33, 2**31, 1])
        os.utime(path, (stamp, stamp))
    warmed(place)
    for path in (place.folder / ".cache").rglob("*"):
        os.utime(path, (0, random.choice([0, 2**33])))
    return Case(random.choice([["doctor", str(task)], place.predict(task), ["cache"], ["cache", "--clear"]]))


@ENVIRONMENT.kind(2)
def many_arguments(place: Place, random: Random) -> Case:
    image = str(place.base / "task" / "blue" / "0.png")
    return Case(place.predict(*[image] * random.choice([200, 400]), *["\x1b[2J"] * random.choice([0, 1])))


# Signals


def signalled(number: int, most: float) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        case = asked(place, random, writes=True)
        if "coop" in case.command:
            case.command[case.command.index("3")] = "60"
        case.signal = random.uniform(0.02, most), number
        return case

    return make


for name, number in (("terminate", signal.SIGTERM), ("interrupt", signal.SIGINT), ("hang_up", signal.SIGHUP)):
    ENVIRONMENT.add(f"signal_{name}", signalled(number, 0.4), 4)
    ENVIRONMENT.add(f"signal_{name}_later", signalled(number, 2.0), 2)


# Many at once


@ENVIRONMENT.kind(4)
def several_at_once(place: Place, random: Random) -> Case:
    """The same command, into the same folder and cache."""
    case = asked(place, random, writes=True)
    case.twins = random.choice([2, 4])
    return case


@ENVIRONMENT.kind(2)
def several_at_once_in_a_damaged_cache(place: Place, random: Random) -> Case:
    case = asked(place, random, writes=True)
    cache_damaged(place, random, case)
    case.twins = 3
    return case
