"""The wheel of shotfit-light: those modules of ../../src/shotfit that prediction with an export reaches without torch.

    pip wheel --no-deps packages/light

They are found by what they import, so that nothing is listed by hand, and taken from where they lie. A wheel is built
in the repository; there is no source distribution.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCE = ROOT / "src"
COMMANDS = sorted(f"shotfit.commands.{file.stem}" for file in (SOURCE / "shotfit" / "commands").glob("[a-z]*.py"))
STARTS = ("shotfit", "shotfit.__main__", "shotfit.light", *COMMANDS)  # --help lists every command
LIBRARIES = {*sys.stdlib_module_names, "numpy", "PIL", "onnxruntime", "typer", "rich"}
WHOLE = {"shotfit.commands.predict"}  # the one command whose work can be done here


def file_of(module: str) -> Path | None:
    """The file of a module of shotfit; None where there is none."""
    path = SOURCE.joinpath(*module.split("."))
    found = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return found if found.is_file() else None


@cache
def imports(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a module imports when it is imported, and what its functions import when they run."""
    file = file_of(module)
    assert file is not None
    at_once, later = set[str](), set[str]()

    def look(node: ast.AST, found: set[str]) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found = later
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update({node.module}, {part for part in parts if file_of(part)})
        for child in ast.iter_child_nodes(node):
            look(child, found)

    look(ast.parse(file.read_text(encoding="utf-8")), at_once)
    return frozenset(at_once), frozenset(later)


def with_packages(module: str) -> Iterator[str]:
    """A module of shotfit and the packages that it lies in."""
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


@cache
def needed(module: str) -> frozenset[str] | None:
    """All modules of shotfit that importing this one imports; None where one of them needs another library."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name.partition(".")[0] != "shotfit":
            if name.partition(".")[0] not in LIBRARIES:
                return None
            continue
        for part in with_packages(name):
            if part not in found:
                if file_of(part) is None:
                    return None
                found.add(part)
                waiting += imports(part)[0]
    return frozenset(found)


def modules() -> frozenset[str]:
    """The modules of the wheel. What other commands import when they run is left out."""
    found, waiting = set[str](), list(STARTS)
    while waiting:
        own = needed(waiting.pop())
        for name in (own or frozenset()) - found:
            found.add(name)
            if not name.startswith("shotfit.commands.") or name in WHOLE:
                waiting += [one for one in imports(name)[1] if one.partition(".")[0] == "shotfit"]
    return frozenset(found)


class Chosen(build_py):  # type: ignore[misc]
    """Of each package, the modules that are chosen."""

    def run(self) -> None:
        """Build from nothing: what an earlier build left would go into the wheel."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Package, module and file of each."""
        chosen, found = modules(), super().find_package_modules(package, package_dir)
        return [one for one in found if (one[0] if one[1] == "__init__" else f"{one[0]}.{one[1]}") in chosen]


class Licensed(bdist_wheel):  # type: ignore[misc]
    """The wheel's `.dist-info/licenses/` holds the repository's license."""

    def write_wheelfile(self, wheelfile_base: str, *arguments: str, **options: str) -> None:
        """Write `WHEEL`, and the license beside it, before the record of all files is made."""
        super().write_wheelfile(wheelfile_base, *arguments, **options)
        folder = Path(wheelfile_base) / "licenses"
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / "LICENSE", folder)


def version() -> str:
    """That of shotfit."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'^version = "(.*)"', project, re.MULTILINE)[0]


if __name__ == "__main__":
    setup(
        version=version(),
        packages=sorted(name for name in modules() if (file_of(name) or HERE).name == "__init__.py"),
        package_dir={"shotfit": "../../src/shotfit"},
        package_data={"shotfit": ["py.typed"]},
        include_package_data=False,
        cmdclass={"build_py": Chosen, "bdist_wheel": Licensed},
    )
