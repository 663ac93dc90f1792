"""The journal of labels: nothing that was acknowledged is lost, whoever writes and whatever ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotfit.errors import ShotfitError
from shotfit.server.app import journal as module
from shotfit.server.app.journal import NAME, Change, Journal

Opened = Callable[[], Journal]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens the journal of a folder, again and again."""
    with ExitStack() as held:

        def again() -> Journal:
            journal = Journal(tmp_path)
            held.callback(journal.close)
            return journal

        yield again


def test_labels_are_there_when_the_journal_is_opened_again(tmp_path: Path, opened: Opened) -> None:
    journal = opened()
    journal.append(Change(labels={"a.jpg": "cat", "b.jpg": "dog"}))
    journal.append(Change(labels={"b.jpg": None}, added=("bird",)))
    again = opened()
    assert again.labels == {"a.jpg": "cat", "b.jpg": None}
    assert [*again.classes] == ["cat", "dog", "bird"]


def test_no_file_is_made_before_the_first_label(tmp_path: Path, opened: Opened) -> None:
    opened()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("left", [b'{"at": 1, "labels": {"c.jpg": "ca', b"\0" * 40, b"{"])
def test_half_a_line_of_a_killed_writer_is_passed_over_and_cleared(tmp_path: Path, opened: Opened, left: bytes) -> None:
    opened().append(Change(labels={"a.jpg": "cat"}))
    with (tmp_path / NAME).open("ab") as file:
        file.write(left)
    journal = opened()
    assert journal.labels == {"a.jpg": "cat"}
    journal.append(Change(labels={"b.jpg": "dog"}))
    assert opened().labels == {"a.jpg": "cat", "b.jpg": "dog"}
    assert [json.loads(line) for line in (tmp_path / NAME).read_bytes().splitlines()][1:]  # each of them is whole


def test_a_damaged_line_costs_itself_alone_and_is_never_rewritten(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE", 0)
    path = tmp_path / NAME
    opened().append(Change(labels={"a.jpg": "cat"}))
    path.write_bytes(path.read_bytes() + b"\xff\xfe not a line\n" + b'{"labels": {"b.jpg": "dog"}}\n[1]\n')
    before = path.read_bytes()
    journal = opened()
    assert journal.labels == {"a.jpg": "cat", "b.jpg": "dog"}
    assert journal.damaged == 2
    assert path.read_bytes() == before


def test_two_writers_keep_the_union(tmp_path: Path, opened: Opened) -> None:
    one, other = opened(), opened()
    for number in range(20):
        (one, other)[number % 2].append(Change(labels={f"{number}.jpg": "cat"}))
    for journal in (one, other):
        journal.follow()
        assert len(journal.labels) == 20


def test_writers_in_other_processes_keep_the_union(tmp_path: Path, opened: Opened) -> None:
    program = (
        "import sys; from pathlib import Path; from shotfit.server.app.journal import Change, Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(60): journal.append(Change(labels={f'{sys.argv[2]}-{n}.jpg': 'cat'}))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, tmp_path, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(opened().labels) == 180


def test_threads_of_one_server_keep_the_union(tmp_path: Path, opened: Opened) -> None:
    journal = opened()

    def write(name: str) -> None:
        for number in range(25):
            journal.append(Change(labels={f"{name}{number}": "cat"}))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened().labels) == 100


def test_a_long_journal_is_written_anew_and_others_go_on_with_it(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE", 10)
    held = opened()
    for number in range(30):
        held.append(Change(labels={"a.jpg": f"class {number}"}))
    held.append(Change(dropped=("class 3",), confirmed={"a.jpg": "class 29"}, labels={"b.jpg": None}))
    size = (tmp_path / NAME).stat().st_size
    anew = opened()
    assert (tmp_path / NAME).stat().st_size < size
    assert (anew.labels, [*anew.classes], anew.confirmed) == (held.labels, [*held.classes], held.confirmed)
    held.append(Change(labels={"c.jpg": "cat"}))  # who still had the older file
    anew.follow()
    assert anew.labels == {"a.jpg": "class 29", "b.jpg": None, "c.jpg": "cat"}
    assert opened().labels == anew.labels


def test_a_journal_that_was_deleted_comes_again(tmp_path: Path, opened: Opened) -> None:
    journal = opened()
    journal.append(Change(labels={"a.jpg": "cat"}))
    (tmp_path / NAME).unlink()
    journal.append(Change(labels={"b.jpg": "dog"}))
    assert opened().labels == {"a.jpg": "cat", "b.jpg": "dog"}


def test_an_empty_file_of_that_name_is_a_journal_that_says_nothing(tmp_path: Path, opened: Opened) -> None:
    (tmp_path / NAME).touch()
    opened().append(Change(labels={"a.jpg": "cat"}))
    assert opened().labels == {"a.jpg": "cat"}


@pytest.mark.parametrize(
    "content", [b"hello\n", b'{"path": "a.jpg", "label": "cat"}\n', b'{"shotfit": "labels", "version": 2}\n']
)
def test_another_file_of_that_name_is_refused_and_left_alone(tmp_path: Path, opened: Opened, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ShotfitError, match="is no journal of labels"):
        opened()
    assert (tmp_path / NAME).read_bytes() == content


def test_a_disk_that_takes_no_more_keeps_what_it_has(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened()
    journal.append(Change(labels={"a.jpg": "cat"}))
    before = (tmp_path / NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ShotfitError, match="No space left on device"):
        patch.setattr(os, "fsync", full)
        journal.append(Change(labels={"b.jpg": "dog"}))
    assert (tmp_path / NAME).read_bytes() == before
    assert journal.labels == {"a.jpg": "cat"}
    journal.append(Change(labels={"c.jpg": "dog"}))
    assert opened().labels == {"a.jpg": "cat", "c.jpg": "dog"}


NAMES = st.text(st.characters(codec=None), max_size=20)


@given(labels=st.dictionaries(NAMES, st.none() | NAMES, max_size=5), added=st.lists(NAMES, max_size=3))
def test_any_name_comes_back_as_it_was(labels: dict[str, str | None], added: list[str]) -> None:
    change = Change(labels=labels, added=tuple(added))
    line = change.line(0)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert Change.of(line) == change
