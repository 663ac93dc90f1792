"""Progress is shown where somebody looks at it, and nowhere else."""

from __future__ import annotations

import importlib.util
import io
import sys
import time
from types import SimpleNamespace

import pytest

from shotfit.progress import track


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_bar_of_a_terminal_says_how_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for _ in track(range(4), "Counting", rate=True):
        time.sleep(0.15)  # a bar is drawn ten times a second
    assert " a second" in terminal.getvalue() and "4/4" in terminal.getvalue()


def test_notebook_without_widgets_is_told_what_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert capsys.readouterr().err == "Counting ...\n"
