"""What attacks of several families put in place of what is expected: values, names, and things that are no files."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["NAMES", "SPECIAL", "VALUES", "changed_somewhere", "deep"]

REMOVED = object()


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


VALUES: dict[str, Sequence[Any]] = {
    "removed": [REMOVED],
    "null": [None],
    "huge": [10**9, 2**31, 2**63, 2**64, 1e308, 10**30],
    "negative": [-1, -(10**9), -0.5, 0, 0.0],
    "not_finite": [float("nan"), float("inf"), float("-inf"), 1e-320],
    "flag": [True, False],
    "text": ["", "x", "1", "auto", "../../etc/passwd", "/dev/zero", "http://localhost:1/", "a" * 100_000],
    "control": ["\x1b[2J\x1b]0;owned\x07", "a\rb", "a\u202eb", "\x9b31m", "line\nerror: none", "\ud800", "\x00"],
    "list": [[], [1], [[]], ["a"] * 1000, [None] * 3, [1e308] * 3],
    "table": [{}, {"a": 1}, {"": ""}, {"\x1b": {"\x07": None}}],
    "deep": [nested(200), [[[[[]]]]]],
}
"""Odd values for an entry of JSON, by what is odd in them."""


def deep(opening: str, depth: int) -> bytes:
    """JSON that is opened so often, and closed again."""
    closing = "".join({"[": "]", "{": "}"}[sign] for sign in reversed(opening) if sign in "[{")
    return (opening * depth + ("" if opening == "[" else "1") + closing * depth).encode()


def places_of(content: Any) -> list[tuple[Any, Any]]:
    """All entries of a JSON value: what holds it, and under which key."""
    found: list[tuple[Any, Any]] = []
    todo = [content]
    while todo:
        one = todo.pop()
        keys = list(one) if isinstance(one, dict) else list(range(min(len(one), 50))) if isinstance(one, list) else []
        found += [(one, key) for key in keys]
        todo += [one[key] for key in keys]
    return found


def changed_somewhere(content: Any, values: Sequence[Any], random: Random, keys: Sequence[Any] = ()) -> None:
    """Put one of the values in place of an entry of a JSON value, or of one under one of these keys."""
    places = [(holder, key) for holder, key in places_of(content) if not keys or key in keys]
    if not places:
        return
    holder, key = random.choice(places)
    value = random.choice(values)
    if value is REMOVED:
        del holder[key]
    else:
        holder[key] = json.loads(json.dumps(value))  # a copy, however deep


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 * 10**9)


def _listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "socket": lambda path: os.mknod(path, 0o644 | stat.S_IFSOCK),
    "bound_socket": _listening,
    "sparse": _sparse,
    "directory": os.mkdir,
    "zero": _link("/dev/zero"),
    "random": _link("/dev/urandom"),
    "terminal": _link("/dev/tty"),
    "full": _link("/dev/full"),
    "stdin": _link("/dev/stdin"),
    "proc_memory": _link("/proc/self/mem"),
    "proc_maps": _link("/proc/self/pagemap"),
    "proc_log": _link("/proc/kmsg"),
    "proc_environ": _link("/proc/self/environ"),
    "dangling": _link("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "devices": _link("/dev"),
    "descriptor": _link("/proc/self/fd/0"),
}
"""What may stand where a file is expected, by name: functions that make it at a path."""

NAMES = {
    "escape": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "bell": "\x07",
    "return": "fine\rerror: none",
    "new_line": "a\nerror: this is fine",
    "c1": "a\x9b31mb\x85c",
    "bidi": "a\u202egpj.exe\u2066b",
    "backspace": "abc\b\b\b",
    "delete": "a\x7fb",
    "not_utf8": "caf\udce9\udcff",
    "long": "x" * 240,
    "longest": "ü" * 120,
    "spaces": "  a  ",
    "option": "--out",
    "dash": "-",
    "markup": "[bold]<script>alert(1)<\u2044script>|x|",
    "formula": "=1+2",
    "pattern": "*[a-z]?{a,b}",
    "percent": "%s%n{0}{x}",
    "home": "~nouser",
    "separators": "a\u2028b\u2029c",
    "tab": "a\tb",
    "zero_width": "a\u200b\ufeffb",
    "combining": "a" + "\u0301" * 100,
}
"""Names that are hard to print, by what is odd in them."""
