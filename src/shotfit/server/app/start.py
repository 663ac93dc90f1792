"""Start the page on this machine, and open it."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from shotfit.errors import ShotfitError
from shotfit.files import can_hold
from shotfit.printing import printable
from shotfit.progress import say as say_aside
from shotfit.server.app.journal import NAME
from shotfit.server.app.kept import home_of
from shotfit.server.limits import Limits
from shotfit.server.running import Stopping, check_installed, listening, run
from shotfit.server.tokens import new_token

__all__ = ["run_app"]


def run_app(
    folder: Path,
    *,
    backbone: str = "mini",
    device: str = "auto",
    port: int = 0,
    unsorted: bool = False,
    browser: bool = True,
    say: Callable[[str], None] = say_aside,
) -> None:
    """Serve the labelling page of a folder until the process is interrupted.

    port: 0 takes a free one. browser: open the page in the one that people use. say: is told the address.

    Raises UsageError where the extra `serve` is missing or the port is taken; ShotfitError for a folder without
    pictures, or one that cannot be written to.
    """
    check_installed()
    from shotfit.server.app.board import Board
    from shotfit.server.app.site import build

    with ExitStack() as held:
        home = held.enter_context(home_of(folder))
        board = Board(folder, home, unsorted, backbone=backbone, device=device)
        held.callback(board.close)
        if not board.gallery.pictures:
            said = f"{printable(folder)} holds no pictures: name a folder that has some, in it or below."
            raise ShotfitError(f"{said} {board.gallery.left_out()}".rstrip())
        if not can_hold(folder / NAME):
            raise ShotfitError(
                f"{printable(folder)} cannot be written to, and labels are kept beside the pictures: copy the folder "
                "to where you may write."
            )
        place = held.enter_context(listening("127.0.0.1", port, None))
        token, stopping = new_token(), Stopping()
        address = f"{place.address}/{token}/"

        def started() -> None:
            say(f"{len(board.gallery.pictures):,} pictures; labels go into {printable(folder / NAME)}")
            if board.gallery.passed_over:
                say(f"note: {board.gallery.left_out()}")
            say(f"open {address}")
            say("stop with Ctrl-C; your labels are kept")
            if browser:
                webbrowser.open(address)

        run(build(board, token, place.port, stopping), place, Limits(), stopping, started)
