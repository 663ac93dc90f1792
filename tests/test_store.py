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
from safetensors.torch import save_file
from torch import Tensor

from shotfit.data import cachefolder
from shotfit.engine import shards
from shotfit.engine import store as module
from shotfit.engine.resident import Rows
from shotfit.engine.shards import DamagedRowsError, digests_of
from shotfit.engine.store import MemoryStore, Store, open_store, parse_size
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import TEMPORARY, write_atomically
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone, tiny_task

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


@pytest.mark.parametrize("bound", ["SHARD_BYTES", "SHARD_SECONDS"])
def test_rows_are_written_while_others_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(module, bound, 0)
    keys, written = [str(number) for number in range(4)], []

    def watched(missing: list[int]) -> Iterator[Tensor]:
        for position in missing:
            written.append(sum(entry.rows for entry in Store(tmp_path).entries()))
            yield from Counter(keys)([position])

    Store(tmp_path).rows(KIND, keys, watched, "counting")
    assert written == [0, 1, 2, 3]  # what a killed process would leave


def _with_key(data: bytes, key: str, other: str) -> bytes:
    """A file whose index says that a row is another key's."""
    for half, instead in zip(digests_of([key])[0], digests_of([other])[0], strict=True):
        data = data.replace(half.tobytes(), instead.tobytes())
    return data


def _damage(shard: Path, damage: str) -> None:
    data = shard.read_bytes()
    flipped, no_tensor = data[:-1] + bytes([data[-1] ^ 1]), b"not a tensor at all"
    other_key = _with_key(data, "1", "7")
    whole = {"flip": flipped, "foreign": no_tensor, "empty": b"", "cut": data[:-5], "key": other_key}[damage]
    assert whole != data
    shard.write_bytes(whole)  # in place: what has the file open sees it


DAMAGE = pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "empty"])


@DAMAGE
def test_damaged_shard_is_computed_again(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(Store(tmp_path), ["1", "2"])
    (shard,) = tmp_path.glob("*/*.safetensors")
    _damage(shard, damage)
    rows, computed = read(Store(tmp_path), ["1", "2"])
    assert computed == 2 and rows[:, 0].tolist() == [1, 2]
    assert "is damaged; its rows are computed again" in capsys.readouterr().err


def test_changed_key_gives_no_other_row(tmp_path: Path) -> None:
    read(Store(tmp_path), ["1", "2"])
    (shard,) = tmp_path.glob("*/*.safetensors")
    _damage(shard, "key")
    assert read(Store(tmp_path), ["7"])[0][:, 0].tolist() == [7]


@DAMAGE
def test_shard_that_is_damaged_while_it_is_held_is_noticed(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    held = store.held(KIND, ["1", "2"], Counter(["1", "2"]), "counting")
    (shard,) = tmp_path.glob("*/*.safetensors")
    _damage(shard, damage)
    with pytest.raises(DamagedRowsError):
        held.stack()
    assert read(store, ["1", "2"])[0][:, 0].tolist() == [1, 2]


def test_shard_that_is_evicted_while_it_is_held_is_still_read(tmp_path: Path) -> None:
    held = Store(tmp_path).held(KIND, ["1", "2"], Counter(["1", "2"]), "counting")
    Store(tmp_path, limit=0).evict()
    assert not list(tmp_path.glob("*/*.safetensors"))
    assert held.stack([1, 0])[:, 0].tolist() == [2, 1]


def test_files_are_closed_with_the_rows(tmp_path: Path) -> None:
    held = Store(tmp_path).held(KIND, ["1"], Counter(["1"]), "counting")
    (file,) = held._files.values()
    assert not file.closed
    del held
    assert file.closed


@pytest.mark.parametrize("act", ["evict", "clear"])
def test_shards_of_earlier_versions_go_in_silence(tmp_path: Path, act: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(Store(tmp_path), ["1"])
    (shard,) = tmp_path.glob("*/*.safetensors")
    old = shard.with_name(f"{'0' * 32}.safetensors")
    save_file({"rows": torch.ones(1, 3)}, old, metadata={"mark": "shotfit stream", "keys": '["2"]', "checksum": "1"})
    assert read(Store(tmp_path), ["2"])[0][:, 0].tolist() == [2]
    store = Store(tmp_path)
    store.clear() if act == "clear" else store.evict()
    assert not old.exists() and capsys.readouterr().err == ""


def test_disk_that_damages_everything_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "write_atomically", lambda path, data: write_atomically(path, data[:-1] + b"?"))
    with pytest.raises(ShotfitError, match="gives back other bytes than were written to it"):
        read(Store(tmp_path), ["1", "2"])


def test_streams_cut_off_during_a_training_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, backbone = tiny_task(tmp_path / "images"), tiny_backbone(tmp_path / "backbone")

    def fitted() -> dict[str, Tensor]:
        store = Store(tmp_path / "store")
        return fit(task, "mma", shots=2, epochs=4, backbone=backbone, store=store, check=False).method.state()

    whole, take, taken = fitted(), Rows.take, [0]

    def cut_off(self: Rows, chosen: Tensor) -> Tensor:
        taken[0] += 1
        if taken[0] == 3:
            for shard in (tmp_path / "store").glob("*/*.safetensors"):
                os.truncate(shard, shard.stat().st_size // 2)
        return take(self, chosen)

    monkeypatch.setattr(Rows, "take", cut_off)
    again = fitted()
    assert taken[0] > 3
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor)


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


@pytest.mark.parametrize("action", ["clear", "evict"])
def test_only_what_shotfit_wrote_is_deleted(tmp_path: Path, action: str) -> None:
    read(Store(tmp_path), ["1"])
    (shard,) = tmp_path.glob("*/*.safetensors")
    foreign = [
        tmp_path / "notes.txt",
        tmp_path / "models" / "model.safetensors",
        tmp_path / "models" / shard.name,
        tmp_path / ("0" * 32) / shard.name,
        shard.parent / "model.safetensors",
        shard.parent / "notes.txt",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shard.read_bytes())
        os.utime(path, (0, 0))
    store = Store(tmp_path, limit=0)
    store.clear() if action == "clear" else store.evict()
    assert all(path.exists() for path in foreign) and not shard.exists()
    assert read(Store(tmp_path), ["1"])[1] == 1
    assert all(path.exists() for path in foreign)


def test_cleared_store_leaves_no_folder(tmp_path: Path) -> None:
    read(Store(tmp_path), ["1"])
    Store(tmp_path).clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["none", "not writable"])
def test_without_a_home_folder_there_is_a_note_and_no_cache(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SHOTFIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setattr(Path, "home", nowhere if home == "none" else lambda: tmp_path / "file")
    cachefolder._note.cache_clear()
    task, backbone = tiny_task(tmp_path / "images"), tiny_backbone(tmp_path / "backbone")
    assert fit(tmp_path / "images", "zero_shot", shots=1, backbone=backbone).class_names == task.classes.names
    assert isinstance(open_store(), MemoryStore)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: ") and "going on without a cache. SHOTFIT_CACHE names a folder" in line


def test_nonsense_size_is_refused() -> None:
    with pytest.raises(UsageError, match="'much' is no size"):
        parse_size("much")
