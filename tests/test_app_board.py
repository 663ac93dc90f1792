"""What the pages of one folder share: the state of a fit, the work under way, and one look at what others write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shotfit.server.app import board as module
from shotfit.server.app.board import Board
from shotfit.server.app.studio import Studio
from shotfit.testing.tiny import tiny_backbone, tiny_task


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """The board of a folder with a test part, and one picture that is none."""
    for part in ("train", "test"):
        tiny_task(tmp_path / "photos" / part, images=6)
    (tmp_path / "photos" / "train" / "blue" / "0.png").write_bytes(b"no picture")
    (tmp_path / "home").mkdir()
    made = Board(tmp_path / "photos", tmp_path / "home")
    yield made
    made.close()


def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    assert holds()


def test_picture_that_cannot_be_read_is_left_out_and_is_no_change_nor_is_a_test_part(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(board, "begin", lambda kind, **more: given.update(more))
    board.fit(thorough=False)
    tiny_backbone(tmp_path / "backbone")
    Studio(board.folder, board.home, str(tmp_path / "backbone")).fit(**given)
    told = board.result()
    assert told is not None
    assert (told["count"], told["changed"], [*told["unreadable"]]) == (17, 0, ["0.png"])
    some = next(one.name for one in board.gallery.pictures.values() if one.path == "train/blue/1.png")
    board.label({some: "green thing"})
    told = board.result()
    assert told is not None and told["changed"] == 1


def test_work_that_a_bug_ends_makes_room_for_other(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("nobody thought of it")

    monkeypatch.setattr(board.worker, "call", fail)
    for _ in range(2):
        board.begin("save")
        until(lambda: board.job is not None and board.job.state == "failed")
    assert board.job is not None and "a bug of shotfit: ValueError: nobody thought of it" in board.job.error


def test_pages_that_come_and_go_leave_one_thread(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOW", 0.05)
    before = threading.active_count()
    for _ in range(5):
        board.listen(lambda _: None)()
    end = board.listen(lambda _: None)
    assert threading.active_count() == before + 1
    end()
    until(lambda: threading.active_count() == before)
