"""The README, docs/ and docstrings as they stand: commands and examples run, tables and links agree.

Commands and blocks run as they stand, but fits of a method and comparisons for one epoch, and comparisons on one shot
and seed. These are left to people: what names ..., data/ or examples/tasks needs the evaluation sets; what names s3://
or https:// needs a network; what pushes, or names hf:// or a backbone other than mini, needs a hub; `app` and `serve`
run until somebody ends them, and `export` and `align` have tests of their own; `make` and pip. The flags of all
commands are compared with the program's, those in blocks of a shell too.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import re
import shlex
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest
import typer.main

import shotfit
import shotfit.light
import shotfit.methods
import shotfit.testing
from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.cli import COMMANDS, app_of, main
from shotfit.data.tasklist import read_tasks
from shotfit.evaluation.variants import read_variant
from shotfit.fitting.fit import fit
from shotfit.methods import METHODS, find
from shotfit.testing import CONTRACT, check
from shotfit.towers.texts import Texts

from .exports import by_hand

ROOT = Path(__file__).parent.parent
CLIPART = ROOT / "examples" / "clipart"
CHEAPER = {"fit": ["--epochs", "1"], "compare": ["--shots", "1", "--seeds", "1", "--epochs", "1"]}
TASKS = """
[[task]]
name = "flowers"
data = "photos"
[[task]]
name = "pictures"
data = "photos"
[[task]]
name = "drawings"
data = "photos"
"""
SITE = [page for folder in ("", "start", "from") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *SITE]
LOGS = sorted((ROOT / "docs" / "log").glob("*.md"))
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text(encoding="utf-8")]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of indented blocks that call shotfit, without their comments, each once."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    found = [re.sub(r"\s+# .*", "", line.strip()) for line in lines if line.startswith("    shotfit ")]
    return [*dict.fromkeys(found)]


def left_to_people(command: str) -> bool:
    """Whether a command needs what a test does not have, or minutes."""
    return bool(
        re.search(
            r"\.\.\.| data/|examples/tasks|(?:hf|s3|https)://|^shotfit (align|app|export|push|serve) "
            r"| --backbone (?!mini)| --address ",
            command,
        )
    )


def shell_commands() -> list[str]:
    """The lines of blocks of a shell that call shotfit."""
    lines = [line for page in PAGES for kind in ("sh", "console") for block in blocks(page, kind)
             for line in block.splitlines()]  # fmt: skip
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("shotfit ")]


def variants() -> list[str]:
    """The methods with options, `coop+length=4`, that the text of a page names."""
    words = [word for page in SITE for word in re.findall(r"`\"?([a-z_]+\+[^`\"]+)", page.read_text(encoding="utf-8"))]
    return [*dict.fromkeys(word for word in words if word.partition("+")[0] in METHODS and "=" in word)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the pages talk about: photos, other pictures, a task list, a method's file, and models."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("bird", "drink", "fruit", "tool"):
        (folder / "photos" / name).mkdir(parents=True)
        for image in sorted((CLIPART / name).glob("*.png"))[:5]:
            shutil.copy(image, folder / "photos" / name)
    (folder / "examples").mkdir()
    (folder / "examples" / "clipart").symlink_to(folder / "photos")
    (folder / "flowers").symlink_to(folder / "photos")
    (folder / "tasks.toml").write_text(TASKS)
    pictures = sorted((CLIPART / "house").glob("*.png"))
    for picture, copy in zip(pictures, ("new.jpg", "other.jpg", "more/a.png", "inbox/b.png"), strict=False):
        (folder / copy).parent.mkdir(exist_ok=True)
        shutil.copy(picture, folder / copy)
    (folder / "list.txt").write_text("new.jpg\nother.jpg\n")
    (folder / "names.txt").write_text("robin\nhammer\n")
    entry = {"id": 1, "file_name": f"bird/{next((folder / 'photos' / 'bird').iterdir()).name}"}
    box = {"image_id": 1, "bbox": [0, 0, 20, 20]}
    (folder / "detections.json").write_text(json.dumps({"images": [entry], "annotations": [box]}))
    pack(folder, pictures[:2])
    example, *_ = blocks(ROOT / "docs" / "methods.md", "python")
    (folder / "my_method.py").write_text(example)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        several = fit(read_tasks(folder / "tasks.toml"), "softcpt", shots=1, epochs=1, check=False)
        prompts = fit("photos", "coop", shots=1, epochs=1, check=False)
        by_hand(folder / "my-export")
        for name, model in {"many": several, "all-tasks": several, "my-model": prompts, "my-prompts": prompts}.items():
            model.save(name)
        yield folder
        sys.modules.pop("my_method", None)


def pack(folder: Path, pictures: list[Path]) -> None:
    """An archive of each kind, and a table, of pictures."""
    (folder / "shards").mkdir()
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive, tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        for picture in pictures:
            archive.write(picture, picture.name)
            tar.add(picture, picture.name)
    table = pyarrow.table({"image": [picture.read_bytes() for picture in pictures]})
    pyarrow.parquet.write_table(table, folder / "labels.parquet")


@functools.cache
def program() -> Any:
    return typer.main.get_command(app_of(COMMANDS))


@pytest.mark.parametrize("command", [*commands(), *shell_commands()])
def test_flags_of_a_command_exist(command: str) -> None:
    _, name, *words = shlex.split(command.removesuffix("\\"), comments=True)
    found = program().commands[name]
    if hasattr(found, "commands"):  # a group
        found = found.commands[words.pop(0)]
    flags = {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= flags


@pytest.mark.parametrize("variant", variants())
def test_method_with_options_is_one(variant: str) -> None:
    assert read_variant(variant).prototype is not None


@pytest.mark.docs
@pytest.mark.parametrize("command", [command for command in commands() if not left_to_people(command)])
def test_command_runs(place: Path, command: str) -> None:
    name, *words = shlex.split(re.sub(r"epochs=\d+", "epochs=1", command), comments=True)
    assert name == "shotfit"
    words = words[: words.index(">")] if ">" in words else words
    raced = words[0] == "fit" and "--method" not in words  # or nothing is trained, as with --classes
    cheaper = [] if raced else CHEAPER.get(words[0], [])
    assert main([*words, *cheaper]) == 0


def own_data(place: Path) -> dict[str, object]:
    """What a reader has, and the pages call by these names."""
    images = [str(path) for name in ("bird", "tool") for path in sorted((place / "photos" / name).glob("*.png"))]
    labels = [Path(path).parent.name for path in images]
    frame = pandas.DataFrame({"path": images, "label": labels})
    return {"images": images, "labels": labels, "frame": frame, "shotfit": shotfit}


@pytest.mark.docs
@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", "new.jpg"),
        ("docs/protocols.md", "coop+length=4"),
        ("docs/python.md", "castle"),
        ("docs/light.md", "new.jpg"),
        ("docs/report.md", "report.html True"),
        ("docs/sklearn.md", "on held-out images: "),
        ("docs/start/python.md", "other.jpg"),
        ("docs/from/setfit.md", ""),
        ("docs/from/scikit_learn.md", ""),
    ],
)
def test_python_of_the_page_runs(place: Path, capsys: pytest.CaptureFixture[str], page: str, printed: str) -> None:
    names = own_data(place)
    for block in blocks(ROOT / page, "python"):
        exec(block.replace("[4], [1, 2, 3]", "[1], [1]"), names)
    assert printed in capsys.readouterr().out


@pytest.mark.docs
@pytest.mark.parametrize("name", CONTRACT)
def test_method_of_the_page_keeps_the_contract(name: str, place: Path, tmp_path: Path) -> None:
    offset = importlib.import_module("my_method").Offset
    check(name, lambda: offset(), tmp_path)


def test_method_of_a_package_is_listed_shown_and_compared(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged = tmp_path / "offset-1.0.dist-info"
    packaged.mkdir()
    (packaged / "METADATA").write_text("Metadata-Version: 2.1\nName: offset\nVersion: 1.0\n")
    (packaged / "entry_points.txt").write_text("[shotfit.methods]\noffset = my_method:Offset\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["methods"]) == 0 and "offset " in capsys.readouterr().out
    assert main(["show", "offset"]) == 0 and "where the vector begins" in capsys.readouterr().out
    words = ["--shots", "1", "--seeds", "1", "--out", str(tmp_path / "runs.jsonl"), "--json"]
    assert main(["compare", "photos", "--methods", "offset+start=0.1,my_method.py:Offset", *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows] == ["offset+start=0.1", "my_method.py:Offset"]


def test_contract_of_the_page_is_a_test_of_every_check(place: Path) -> None:
    _, block = blocks(ROOT / "docs" / "methods.md", "python")
    names: dict[str, object] = {}
    exec(block, names)
    assert callable(names["test_contract"])


def test_steps_of_the_towers_run(place: Path) -> None:
    backbone = load_backbone("mini")
    names = {"tower": backbone.text, "inputs": Texts.of(backbone.encode(["a cat"])), "edits": ()}
    for block in blocks(ROOT / "docs" / "architecture.md", "python"):
        exec(block, names)
    assert names["features"].shape == (1, backbone.embed)  # type: ignore[attr-defined]


def test_class_names_and_task_list_of_the_page_are_read(place: Path) -> None:
    class_names, task_list = blocks(ROOT / "docs" / "data.md", "toml")
    (place / "tables").mkdir()
    for name in ("flowers17/Faces", "flowers17/roses", "dtd/images"):
        (place / "tables" / name).mkdir(parents=True)
        for image in sorted((CLIPART / "bird").glob("*.png"))[:2]:
            shutil.copy(image, place / "tables" / name)
    (place / "tables" / "dtd" / "labels.csv").write_text("path,label\nbird_01.png,dotted\nbird_02.png,lined\n")
    (place / "tables" / "dtd" / "names.toml").write_text("")
    (place / "tables" / "flowers17" / "classes.toml").write_text(class_names)
    (place / "tables" / "tasks.toml").write_text(task_list)
    flowers, textures = read_tasks(place / "tables" / "tasks.toml")
    assert (flowers.classes.names, textures.name) == (("face", "roses"), "texture")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_hold(path: Path) -> None:
    inside = path.relative_to(ROOT / "src" if "src" in path.parts else ROOT)
    result = doctest.testmod(importlib.import_module(".".join(inside.with_suffix("").parts)))
    assert result.attempted > 0 and result.failed == 0


def test_docstrings_become_lists_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    result = doctest.testmod(importlib.import_module("docstrings"))
    assert result.attempted > 0 and result.failed == 0


def anchors(page: Path) -> set[str]:
    """What a link can name behind a #: the headings, as the pages' readers spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("module", [shotfit, shotfit.light, shotfit.methods, shotfit.testing], ids=lambda m: m.__name__)
def test_every_public_name_is_on_a_page_of_the_interface(module: ModuleType) -> None:
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("api.md", "api_methods.md"))
    shown = re.findall(rf"^\.\. (?:auto\w+|data):: {re.escape(module.__name__)}\.(\w+)", pages, re.MULTILINE)
    assert {*shown} >= {*module.__all__}


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:[\w -]+ <)?([\w/-]+)>?$", index, re.MULTILINE)
    others = {"log", "method"}  # the log is of the repository alone, and pages of methods are made with the site
    pages = [page for kind in ("md", "ipynb") for page in (ROOT / "docs").rglob(f"*.{kind}")]
    pages = [page for page in pages if page.parent.name not in others]
    assert sorted(listed) == sorted(
        page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in pages if page.stem != "index"
    )


def test_every_method_has_a_row_whose_link_leads_to_its_section() -> None:
    page = ROOT / "docs" / "methods.md"
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(#([\w-]+)\)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows.keys() == METHODS.keys()
    assert set(rows.values()) <= anchors(page)


def test_grids_of_the_page_are_those_of_the_methods() -> None:
    def shown(value: object) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    expected = [
        f"| `{name}` | `{axis.name}` | {', '.join(map(shown, axis.values))} | {shown(grid.robust[axis.name])} | "
        f"{axis.reason} |"
        for name in METHODS
        if (grid := find(name).grid) is not None
        for axis in grid.axes
    ]
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    head = "| method | what | tried | alone | why |\n|---|---|---|---|---|\n"
    assert page.split(head)[1].split("\n\n")[0].splitlines() == expected
    without = [name for name in METHODS if find(name).grid is None]
    assert f"{', '.join(f'`{name}`' for name in without[:-1])} and `{without[-1]}` take no gradient steps" in page


def test_bounds_of_the_security_page_are_those_of_the_code() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| `([\w.]+)\.(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) == len(page.split("## Bounds")[1].split("##")[0].split("\n|")) - 3
    found = [f"{getattr(importlib.import_module(module), name):,}" for _, module, name in rows]
    assert [bound for bound, _, _ in rows] == found


@pytest.mark.parametrize("page", [*PAGES, *LOGS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for target, _, anchor in re.findall(r"\]\(([^)#:\s]*)(#([^)]+))?\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(f"{target}#{anchor}")
    assert missing == []


def test_no_page_has_a_paragraph_twice_or_a_place_left_to_fill() -> None:
    seen: dict[str, str] = {}
    for page in [ROOT / "CHANGELOG.md", *PAGES, *LOGS]:
        name = page.relative_to(ROOT).as_posix()
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"^(?:[A-Z_]{4,}|[<=>]{7}.*)$", prose, re.MULTILINE) == [], name
        for paragraph in re.split(r"\n(?:\s*\n|(?=#))", prose):
            if len(paragraph) > 150:
                assert paragraph not in seen, f"{name} repeats {seen[paragraph]}: {paragraph[:100]}"
                seen[paragraph] = name


def test_headings_stand_between_empty_lines() -> None:
    for page in [*PAGES, *LOGS, ROOT / "CHANGELOG.md"]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"[^\n]\n(#+ .+)|^(#+ .+)\n[^\n]", text, re.MULTILINE) == [], page.name


def test_no_two_entries_of_the_changes_begin_alike() -> None:
    entries = re.findall(r"^- (.{60})", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(entries) > 100 and len({*entries}) == len(entries)


def test_every_entry_of_the_log_is_in_its_index() -> None:
    index = (ROOT / "docs" / "log" / "README.md").read_text(encoding="utf-8")
    listed = {*re.findall(r"\(([\w-]+\.md)#([\w-]+)\)", index)}
    months = [page for page in LOGS if page.stem != "README"]
    entries = {
        (page.name, anchor) for page in months for anchor in anchors(page) if re.match(r"\d{4}-\d\d-\d\d-", anchor)
    }
    assert entries and entries - listed == set()
