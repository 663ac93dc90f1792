"""The house keeps its order: a wing imports only from wings above it, and the picture shows what the code imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import shotfit
from docs.wings import EVERYWHERE, FACE, PICTURE, ROOT, SOURCE, WINGS, drawn, imports, wing_of
from shotfit.methods import METHODS

FOUND = imports()
LONGER = {"apex", "dualadapter", "linear_probe", "softcpt", "tip_adapter"}  # older than the rule for methods
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("wing", WINGS)
def test_wing_imports_only_from_wings_above_it(wing: str) -> None:
    allowed = {*EVERYWHERE, *WINGS[: WINGS.index(wing) + 1]}
    allowed |= {"__init__", "__version__"}  # the package's face, which imports a wing when a name of it is used
    allowed |= {"light"} if wing == "commands" else set()  # a face too, which the lowest wing alone looks at
    below = [pair for pair in FOUND if wing_of(pair[0]) == wing and wing_of(pair[1]) not in allowed]
    assert below == []


def test_what_every_wing_uses_imports_no_wing() -> None:
    assert [pair for pair in FOUND if wing_of(pair[0]) in EVERYWHERE and wing_of(pair[1]) in WINGS] == []


def test_imports_of_every_kind_are_read(tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    lines = "import shotfit\nimport shotfit.high.two\ndef f():\n    from shotfit.high import one\nimport torch\n"
    (tmp_path / "low" / "module.py").write_text(lines)
    assert imports(tmp_path) == [(("low.module"), name) for name in ("__init__", "high.two", "high.one")]


def test_the_root_holds_only_the_face_and_what_every_wing_uses() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == {*EVERYWHERE, *FACE}
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == {*WINGS}


def test_no_module_of_the_root_bears_the_name_of_a_public_function() -> None:
    assert not {path.stem for path in SOURCE.iterdir()} & {*shotfit.__all__}


def test_files_are_read_in_one_sitting() -> None:
    files = [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert [file.name for file in files if len(file.read_text(encoding="utf-8").splitlines()) > 500] == []


def test_a_method_is_a_short_file_or_a_folder_of_files() -> None:
    homes = {place.partition(":")[0].rpartition(".")[2] for place in METHODS.values()} - LONGER
    own = {home: sorted((SOURCE / "methods").glob(f"{home}.py")) for home in homes}
    assert [home for home, files in own.items() for file in files if len(_behind_docstring(file)) > 150] == []
    parts = [part for home, files in own.items() if not files for part in (SOURCE / "methods" / home).glob("*.py")]
    assert parts and [part for part in parts if len(part.read_text(encoding="utf-8").splitlines()) >= 300] == []


def _behind_docstring(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    return text.splitlines()[ast.parse(text).body[0].end_lineno :]


def test_the_picture_is_of_todays_imports() -> None:
    assert PICTURE.read_text(encoding="utf-8") == drawn(), "run python docs/wings.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_that_a_page_names_exist(page: Path) -> None:
    code = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    paths = [name for name in code if re.fullmatch(r"(src|tests|benchmarks|docs|recipes|examples)/[\w./-]+", name)]
    inside = [name for name in code if re.fullmatch(rf"({'|'.join(WINGS)})/[\w./-]*", name)]
    modules = [match[1] for name in code if (match := re.match(r"(shotfit\.(?:[a-z_]+\.)*\w+)", name))]
    missing = [name for name in paths if not (ROOT / name).exists()]
    missing += [name for name in inside if not (SOURCE / name).exists()]
    missing += [name for name in modules if not _exists(name)]
    assert missing == []


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one, or the group of entry points."""
    parts = name.split(".")[1:]
    if len(parts) == 1 and parts[0] in shotfit.__all__:
        return True
    file = SOURCE.joinpath(*parts)
    if file.is_dir() or file.with_suffix(".py").is_file():
        return True
    return (
        bool(parts)
        and file.parent.with_suffix(".py").is_file()
        and parts[-1] in file.parent.with_suffix(".py").read_text()
    )
