"""`shotfit analyze`: a group of commands, one file each (`analyze_layers.py`, ...)."""

from __future__ import annotations

from shotfit.commands.analyze_difficulty import difficulty
from shotfit.commands.analyze_layers import layers
from shotfit.commands.analyze_pairs import pairs
from shotfit.commands.analyze_tasks import tasks

__all__ = ["GROUP", "analyze"]

GROUP = (layers, difficulty, pairs, tasks)  # the commands in this one


def analyze() -> None:
    """Look at a backbone and at data sets as the papers do: numbers, tables and plots.

    Nothing is fitted or saved, unless an analysis says so.

    \b
    Examples:
      shotfit analyze layers --tasks tasks.toml --plot layers.svg
      shotfit analyze difficulty photos/ flowers/
      shotfit analyze pairs photos/ --page pairs.html
      shotfit analyze tasks --tasks tasks.toml --plot tasks.svg
    """
