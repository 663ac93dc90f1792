"""What docs/scale.md says that a billion pictures take, and the simulation behind it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.cost_model import FILE, Stages, costs, read_stages, simulate
from benchmarks.scale import make_shards, steady_rate
from shotfit.data.parts import Parts

from .test_docs import ROOT

EVEN = Stages(100, {1: [[0.0, 1.0, 0.0, 4.0, 0.0]]})


@pytest.mark.parametrize(
    ("workers", "cores", "seconds"),
    [
        (1, 2, 4.0),  # decoding has a core of its own
        (1, 1, 5.0),  # it has not
        (2, 2, 2.5),  # two towers and their decoding share two cores
        (2, 4, 2.0),
    ],
)
def test_simulated_pipeline_is_as_fast_as_its_narrowest_place(workers: int, cores: int, seconds: float) -> None:
    assert simulate(EVEN, workers, cores, 400) == pytest.approx(100 / seconds, rel=0.02)


def test_decoding_that_is_slower_than_the_tower_holds_it_back() -> None:
    assert simulate(Stages(100, {1: [[0.0, 4.0, 0.0, 1.0, 0.0]]}), 1, 8, 400) == pytest.approx(25, rel=0.02)


def test_engine_takes_its_cores_from_the_tower_where_there_are_no_others() -> None:
    even = Stages(100, {1: [[0.0, 0.0, 0.0, 1.0, 0.0]]}, engine=0.2)
    assert [simulate(even, 1, cores, 400) for cores in (1, 2)] == pytest.approx([80, 100], rel=0.02)


def test_more_workers_than_were_measured_take_the_times_of_the_most() -> None:
    measured = Stages(100, {1: [[0.0, 0.0, 0.0, 1.0, 0.0]], 2: [[0.0, 0.0, 0.0, 2.0, 0.0]]})
    assert [simulate(measured, workers, 8, 400) for workers in (1, 2, 4)] == pytest.approx([100, 100, 200], rel=0.02)


def test_measured_stages_are_there_for_one_and_two_workers() -> None:
    kept = read_stages()
    assert FILE.stat().st_size < 20_000 and sorted(kept.seconds) == [1, 2]
    assert all(len(row) == 5 and min(row) >= 0 for times in kept.seconds.values() for row in times)
    assert 0 < simulate(kept, 1, 2) < simulate(kept, 2, 2)


def test_costs_of_the_page_are_those_of_its_formula() -> None:
    found = costs(1e9, 80, 64, price=1.0)
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    hours, days, requests = (
        float(re.search(pattern, page)[1].replace(",", ""))  # type: ignore[index]
        for pattern in (r"\| ([\d,]+) at 80 pictures", r"\| ([\d.]+) on 64 cores", r"\| ([\d.]+) million; with")
    )
    assert (round(found.worker_hours), round(found.days, 1), round(found.requests / 1e6, 1)) == (hours, days, requests)
    assert found.money == found.worker_hours and found.bytes_written == 1.2e12 and found.bytes_read == 1e14
    more = costs(1e9, 80, 64, price=1.0, per_request=1e-6, per_stored=1e-12)
    assert more.money == pytest.approx(found.worker_hours + found.requests * 1e-6 + 1.2)


def test_rate_of_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    for number, written in enumerate((100.0, 102.0, 104.0)):
        path = tmp_path / f"part-{number:05}.parquet"
        pq.write_table(pa.table({"image": ["a"] * 8}), path)
        os.utime(path, (written, written))
    assert steady_rate(tmp_path) == (4.0, 24, 100.0, 104.0)


def test_shards_of_the_benchmark_hold_as_many_pictures(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", 25, shard=10)
    assert [len(part) for part in Parts([str(shards)], 8)] == [8, 2, 8, 2, 5]
