"""Freed memory stays where it is within `kept_memory`, and goes back to the system behind it."""

from __future__ import annotations

import platform
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from shotfit.engine import allocator
from shotfit.engine.allocator import kept_memory

SIZE = 48 << 20  # bytes of a block, more than glibc keeps by itself
PAGES = SIZE // resource.getpagesize()

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing else of this process kept memory, as a server of another test does while it lives."""
    monkeypatch.setattr(allocator, "_inside", 0)
    with kept_memory():
        pass


def _step() -> int:
    """Pages that a step of three large blocks touches for the first time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first = torch.ones(SIZE // 4)
    second = first * 2
    assert float((first + second)[-1]) == 3
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@on_glibc
def test_blocks_are_used_again() -> None:
    assert _step() > 2 * PAGES
    with kept_memory():
        least = min(_step() for _ in range(6))
        assert least < PAGES / 10
    assert _step() > 2 * PAGES


@on_glibc
def test_blocks_of_a_thread_are_used_again() -> None:
    with kept_memory(), ThreadPoolExecutor(1) as tower:
        assert min(tower.submit(_step).result() for _ in range(6)) < PAGES / 10


@on_glibc
def test_the_outermost_gives_them_back() -> None:
    with kept_memory():
        with kept_memory():
            _step()
        held = _resident()
        assert min(_step() for _ in range(6)) < PAGES / 10
    assert held - _resident() > 2 * PAGES


@on_glibc
def test_an_error_gives_them_back_too() -> None:
    with pytest.raises(ValueError, match="inside"), kept_memory():
        raise ValueError("inside")
    assert _step() > 2 * PAGES
