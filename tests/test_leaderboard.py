"""The leaderboard: which runs, their forecast, ranks as published, and pages that say what the results say."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import leaderboard_page
from benchmarks.leaderboard import Cell, cells, seconds_of, steps_of
from benchmarks.standings import SETS, Standings, accuracies, critical_difference, friedman, mean_ranks, read
from shotfit.methods import METHODS, find
from shotfit.testing.tiny import tiny_backbone

ROOT = Path(__file__).parent.parent


def line(method: str, data: str, accuracy: float, seed: int = 1, shots: int = 16) -> str:
    run = {"key": f"{method}{data}{seed}{shots}", "method": method, "shots": shots, "seed": seed, "refusal": None}
    run |= {"seconds": 10.0 * seed, "data": [f"data/{data}"], "peak_memory": 10**9, "model_bytes": 2000}
    return json.dumps(run | {"scores": {data: {"accuracy": accuracy, "images": 100}}}) + "\n"


@pytest.fixture
def found(tmp_path: Path) -> Standings:
    lines = [line(f"{name}@paper", data, accuracy) for name, accuracy in
             (("zero_shot", 0.1), ("coop", 0.5), ("mma", 0.6), ("knn", 0.4)) for data in SETS]  # fmt: skip
    lines += [line("mma@paper", data, 0.7, seed=2) for data in SETS]
    lines += [line("mma@auto", data, 0.9) for data in SETS] + [line("auto", "dtd", 0.8)]
    lines += [line("apex@paper", "dtd", 0.95)]
    (tmp_path / "runs.jsonl").write_text("".join(lines))
    return read(tmp_path / "runs.jsonl")


def test_all_methods_are_run_and_what_nothing_is_chosen_of_once() -> None:
    first, auto, *_ = parts = cells()
    assert {cell.method for cell in first} == METHODS.keys() and {cell.seed for cell in first} == {1}
    assert {cell.method for cell in auto} == {name for name in METHODS if find(name).grid is not None} | {"auto"}
    assert len({cell for part in parts for cell in part}) == sum(map(len, parts))
    papers = [cell for part in parts for cell in part if cell.recipe == "paper"]
    assert len(papers) == len(METHODS) * len(SETS) * 2 * 3


def test_forecast_counts_steps_by_classes() -> None:
    counts = [20] * 30
    assert steps_of(Cell("mma", "paper", 16, 1, "dtd"), counts) == 5 * (16 * 30 // 16)
    assert steps_of(Cell("mma", "auto", 16, 1, "dtd"), counts) == 1000
    assert steps_of(Cell("clip_lora", "paper", 1, 1, "dtd"), counts) == 500
    assert steps_of(Cell("gda", "paper", 16, 1, "dtd"), counts) == 0
    measured = {"10": 0.1, "20": 0.2}
    fixed = seconds_of(Cell("gda", "paper", 16, 1, "dtd"), counts, {})
    assert seconds_of(Cell("mma", "paper", 16, 1, "dtd"), counts, measured) == pytest.approx(fixed + 150 * 0.3)


def test_ranks_are_those_of_whole_rows(found: Standings) -> None:
    table = accuracies(found, "paper", 16)
    assert mean_ranks(table) == {"mma": 1, "coop": 2, "knn": 3, "zero_shot": 4}
    assert (
        found["mma", "paper", 16]["dtd"].accuracy == pytest.approx(65)
        and found["mma", "paper", 16]["dtd"].seconds == 15
    )
    assert found["knn", "auto", 16] == found["knn", "paper", 16]
    assert friedman(table) < 0.01
    assert critical_difference(4, 6) == pytest.approx(2.569 * (20 / 36) ** 0.5, rel=1e-3)  # Demsar, table 5


def test_page_shows_what_was_not_run_empty(found: Standings) -> None:
    page = leaderboard_page.page(found)
    part = page.split("## 16 shots, the papers")[1].split("## One shot")[0]
    rows = {row.split("`")[1]: row for row in part.splitlines() if row.startswith("| [")}
    assert rows.keys() == METHODS.keys()
    assert rows["apex"].count("95.0") == 1 and rows["vpt"].endswith("| | | | | | | | | | | |")
    assert "| 1.0 | 65.0 | 65.0 ± 7.1 |" in rows["mma"]
    assert "| DTD | [`apex`](methods.md#apex) (paper) | 95.0 | 80.0 | 15.0 |" in page


def test_chooser_names_what_serves_the_need(found: Standings) -> None:
    tables = leaderboard_page.choices(found)
    named = {need: re.findall(r"^\| \[`(\w+)`\]", table, re.MULTILINE) for need, table in tables.items()}
    assert named["any"] == ["mma", "mma", "coop", "knn", "zero_shot"]
    assert "knn" not in named["new classes"] and named["several tasks"] == ["zero_shot"]
    assert named["published"][0] == "mma_plus_plus"


def test_pages_are_made_of_the_results_as_they_are() -> None:
    results = read()
    assert (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8") == leaderboard_page.page(results)
    chooser = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
    for need, table in leaderboard_page.choices(results).items():
        begin = leaderboard_page.BEGIN.format(need)
        assert f"{begin}{table}{leaderboard_page.END}" in chooser, "python -m benchmarks.leaderboard page"


@pytest.fixture(scope="module")
def method_pages() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        return importlib.import_module("method_pages")


def test_every_method_has_a_page_of_its_file(
    method_pages: ModuleType, found: Standings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_pages, "FOLDER", tmp_path)
    monkeypatch.setattr(method_pages, "read", lambda: found)
    monkeypatch.setattr(method_pages, "_cost", lambda method, backbone: [f"The cost of {method.name} {backbone}."])
    monkeypatch.setattr(method_pages, "load_in", lambda name, device: f"with {name}")
    method_pages.write()
    pages = {file.stem: file.read_text(encoding="utf-8") for file in tmp_path.glob("*.md")}
    assert pages.keys() == METHODS.keys()
    for name, page in pages.items():
        assert page.startswith(f"# {find(name).title}\n") and "# differs" not in page
        assert "More: [methods.md](../methods.md#" in page and f"The cost of {name} with mini." in page
    assert "| `length` | `16` |" in pages["coop"] and "logits   = exp(s)" in pages["coop"]
    assert "| paper | 16 | 65.0 ± 7.1 |" in pages["mma"] and "| average of 11 | 83.20 | 76.80 | 79.87 |" in pages["mma"]
    assert "learned:** class prototypes that start as the text features, held near" in pages["clap"].replace("L", "l")


def test_cost_is_what_runs_of_the_towers(method_pages: ModuleType, tmp_path: Path) -> None:
    text = "\n".join(method_pages._cost(find("mma"), tiny_backbone(tmp_path)))
    assert "a training step\n  text tower: 3 texts, " in text and " x Adapter; frozen until step" in text


def test_links_to_methods_lead_to_their_pages(method_pages: ModuleType) -> None:
    assert method_pages.linked("[`coop`](methods.md#coop), [`a`](#a)") == "[`coop`](method/coop.md), [`a`](#a)"
