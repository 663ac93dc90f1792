"""After a parity run the folders that no test reads yet are named."""

from __future__ import annotations

import pytest

from .test_coverage import uncovered


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    folders = uncovered()
    if folders:
        terminalreporter.write_line(f"parity folders not covered: {', '.join(folders)}")
