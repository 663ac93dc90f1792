"""The store keeps rows, survives damage, interruption, eviction and company, and computes nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shotfit.engine import store as module
from shotfit.engine.store import MemoryStore, Store, parse_size
from shotfit.errors import UsageError
from shotfit.files import TEMPORARY

KIND: dict[str, str | int | float | bool] = {"backbone": "abc", "step": 3}


class Counter:
    """Rows that say which key they belong to, and how many were computed."""

    def __init__(self, keys: list[str], chunk: int = 2, dtype: torch.dtype = torch.float32) -> None:
        self.keys, self.chunk, self.dtype, self.computed = keys, chunk, dtype, 0

    def __call__(self, missing: list[int]) -> Iterator[Tensor]:
        for start in range(0, len(missing), self.chunk):
            part = missing[start : start + self.chunk]
            self.computed += len(part)
            yield torch.stack([self.row(self.keys[index]) for index in part])

    def row(self, key: str) -> Tensor:
        return torch.full((3,), float(int(key)), dtype=self.dtype)


def read(store: Store | MemoryStore, keys: list[str], chunk: int = 2) -> tuple[Tensor, int]:
    counter = Counter(keys, chunk)
    return store.rows(KIND, keys, counter, "counting"), counter.computed


def test_second_call_computes_nothing(tmp_path: Path) -> None:
    first, _ = read(Store(tmp_path), ["1", "2", "3"])
    again, computed = read(Store(tmp_path), ["3", "1"])
    assert computed == 0 and torch.equal(again, first[[2, 0]])


@given(st.lists(st.integers(0, 9).map(str), min_size=1, max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_rows_come_in_the_order_of_the_keys(keys: list[str], chunk: int) -> None:
    rows, computed = read(MemoryStore(), keys, chunk=chunk)
    assert rows[:, 0].tolist() == [float(key) for key in keys] and computed == len(set(keys))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_precision_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    Store(tmp_path).rows(KIND, ["1"], Counter(["1"], dtype=dtype), "counting")
    assert Store(tmp_path).rows(KIND, ["1"], Counter([]), "counting").dtype == dtype


def test_other_kinds_share_nothing(tmp_path: Path) -> None:
    read(Store(tmp_path), ["1"])
    counter = Counter(["1"])
    Store(tmp_path).rows(KIND | {"step": 4}, ["1"], counter, "counting")
    assert counter.computed == 1


def test_interrupted_computation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 1)  # every row is a shard
    keys = [str(number) for number in range(6)]

    def broken(missing: list[int]) -> Iterator[Tensor]:
        yield from Counter(keys)(missing[:4])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).rows(KIND, keys, broken, "counting")
    rows, computed = read(Store(tmp_path), keys)
    assert computed == 2 and rows[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "empty"])
def test_damaged_shard_is_computed_again(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(Store(tmp_path), ["1", "2"])
    (shard,) = tmp_path.glob("*/*.safetensors")
    data = shard.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    shard.write_bytes({"cut": data[:-5], "flip": flipped, "foreign": b"not a tensor at all", "empty": b""}[damage])
    rows, computed = read(Store(tmp_path), ["1", "2"])
    assert computed == 2 and rows[:, 0].tolist() == [1, 2]
    assert "is damaged; its rows are computed again" in capsys.readouterr().err


def test_least_recently_used_shards_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, key in enumerate(["1", "2", "3"]):
        read(store, [key])
        shard = max(tmp_path.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(shard, (number, number))
    size = shard.stat().st_size
    Store(tmp_path, limit=2 * size).evict()
    assert read(Store(tmp_path), ["2", "3"])[1] == 0
    assert read(Store(tmp_path), ["1"])[1] == 1


def test_what_a_killed_writer_left_is_never_read_and_goes(tmp_path: Path) -> None:
    read(Store(tmp_path), ["1"])
    (shard,) = tmp_path.glob("*/*.safetensors")
    left = shard.parent / f"{TEMPORARY}left"
    left.write_bytes(shard.read_bytes())
    os.utime(left, (0, 0))
    Store(tmp_path).evict()
    assert not left.exists() and shard.exists()


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from shotfit.engine.store import Store\n"
        "keys = [str(n) for n in range(200)]\n"
        "compute = lambda missing: (torch.full((1, 3), float(index)) for index in missing)\n"
        "rows = Store(Path(sys.argv[1])).rows({'a': 1}, keys, compute, 'counting')\n"
        "assert rows[:, 0].tolist() == [float(key) for key in keys]"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]


def test_unwritable_disk_costs_a_note_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    rows, _ = read(Store(tmp_path / "file"), ["1", "2"])
    assert rows[:, 0].tolist() == [1, 2] and "going on without keeping features" in capsys.readouterr().err


def test_entries_and_clear(tmp_path: Path) -> None:
    store = Store(tmp_path)
    read(store, ["1", "2"])
    (entry,) = store.entries()
    assert entry.kind == KIND and entry.rows == 2
    store.clear()
    assert store.entries() == []


def test_nonsense_size_is_refused() -> None:
    with pytest.raises(UsageError, match="'much' is no size"):
        parse_size("much")
