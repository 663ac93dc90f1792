"""Colors and ruled tables on a terminal, as wide as it is; plain lines everywhere else."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import pytest

from shotfit.commands.cli import main
from shotfit.commands.console import show_table, to, warner

from .pictures import tree

ROWS = [["method", "16 shots"], ["zero_shot", "60.0  "], ["tip_adapter_with_a_long_name", "70.0 *"]]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_a_file_gets_aligned_lines() -> None:
    plain = io.StringIO()
    show_table(ROWS, plain, best=" *")
    assert plain.getvalue().splitlines()[1].split() == ["zero_shot", "60.0"]
    assert "\x1b" not in plain.getvalue()
    assert "─" not in plain.getvalue()


def test_a_terminal_gets_rules_and_the_best_in_green(screen: Terminal) -> None:
    show_table(ROWS, screen, best=" *")
    assert "───" in screen.getvalue()
    assert re.search(r"\x1b\[32m *70\.0 \*", screen.getvalue())


def test_no_color_is_kept(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    show_table(ROWS, screen, best=" *")
    to(screen)("warning: odd")
    assert "\x1b[3" not in screen.getvalue()


def test_a_narrow_terminal_loses_no_text(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("NO_COLOR", "1")
    show_table([["a", "b"], ["x" * 30, "y" * 30]], screen)
    assert all(len(line) <= 24 for line in screen.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines())
    assert (screen.getvalue().count("x"), screen.getvalue().count("y")) == (30, 30)


def test_names_from_outside_do_nothing_to_a_terminal(screen: Terminal) -> None:
    show_table([["class"], ["\x1b]0;owned\x07[red]x[/red]"]], screen)
    to(screen)("warning: \x1b[2J")
    assert "\x1b]0" not in screen.getvalue()
    assert "[red]x[/red]" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_a_dumb_terminal_is_a_file(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    to(screen)("warning: odd")
    assert screen.getvalue() == "warning: odd\n"


def test_commands_use_them(screen: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree(tmp_path / "w", n01440764=6, n01443537=6)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout", screen)
    assert main(["doctor", str(folder)]) == 0
    assert main(["methods"]) == 0
    assert main(["compare", str(folder), "--methods", "zero_shot", "--shots", "1", "--out", str(tmp_path / "c")]) == 0
    assert main(["fit", str(folder), "--method", "zero_shot", "--out", str(tmp_path / "m")]) == 0
    assert main(["evaluate", str(tmp_path / "m"), str(folder)]) == 0
    assert screen.getvalue().count("───") >= 5


def test_each_warning_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warner()
        for sentence in ("one", "other", "one"):
            warnings.warn(sentence, stacklevel=1)
    assert capsys.readouterr().err == "warning: one\nwarning: other\n"
