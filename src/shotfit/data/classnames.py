"""Class names as people write them: the number before a folder's name, and the file `classes.toml`.

A number before the name of every class (`00_stop`, `001.Black_footed_Albatross`) is an order, not part of the name, and
is left out. It stays where one class has none, or where two classes have the same number (`2012_civic`, `2012_yaris`).

`classes.toml`, beside the class folders or given as `--class-names FILE`, overrides names and templates:

    template = "a photo of a {}, a type of flower."      # or the name of a set: "ensemble"
    # templates = ["a photo of a {}.", "a drawing of a {}."]     instead, for several

    [names]                             # class folder (or label of a manifest) = name
    "00_speed_limit_20" = "speed limit 20 sign"
    Faces = "face"

All of it is optional; classes that are not listed keep their names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shotfit.data.images import shown
from shotfit.data.tasks import expand_templates
from shotfit.data.toml import read_toml
from shotfit.errors import ShotfitError, first_few

__all__ = ["NAMES_FILE", "ClassNames", "read_class_names", "without_numbers"]

NAMES_FILE = "classes.toml"

_NUMBER = re.compile(r"(\d{1,100})[_\-. ]+(?=.*[^\W\d_])")


@dataclass(frozen=True)
class ClassNames:
    """The content of a `classes.toml`: templates (empty if it gives none) and names by class."""

    path: Path | None = None
    templates: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)

    def apply(self, classes: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        """The name of each class: the one given here, else its default.

        Raises:
            ShotfitError: a name is given for a class that does not exist.
        """
        for unknown in self.names.keys() - set(classes):
            close = difflib.get_close_matches(unknown, classes, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the classes are {first_few(classes, 5)}."
            raise ShotfitError(f"{shown(self.path or Path())} names {unknown!r}, which is no class here; {hint}")
        return tuple(self.names.get(key, name) for key, name in zip(classes, default, strict=True))


def without_numbers(classes: Sequence[str]) -> tuple[str, ...]:
    """The names without the number in front, if every one has a number of its own.

    >>> without_numbers(["00_speed_limit_20", "01_no_passing"])
    ('speed_limit_20', 'no_passing')
    """
    found = [_NUMBER.match(name) for name in classes]
    numbers = {int(match[1]) for match in found if match}
    if len(classes) < 2 or len(numbers) < len(classes):
        return tuple(classes)
    return tuple(name[match.end() :] for name, match in zip(classes, found, strict=True) if match)


def read_class_names(path: Path) -> ClassNames:
    """Read a `classes.toml`.

    Raises:
        ShotfitError: missing, no TOML, an unknown key, a value of another type, or an impossible template.
    """
    found = read_toml(path, "`template` and a table [names]")
    unknown = found.keys() - {"template", "templates", "names"}
    if unknown:
        raise ShotfitError(
            f"{shown(path)} has the unknown key {min(unknown)!r}; expected template, templates or the table [names]."
        )
    if "template" in found and "templates" in found:
        raise ShotfitError(f"{shown(path)} has both `template` and `templates`; keep one of them.")
    templates = found.get("templates", [found["template"]] if "template" in found else [])
    names = found.get("names", {})
    if not isinstance(templates, list) or not all(isinstance(entry, str) for entry in templates):
        raise ShotfitError(f"in {shown(path)}, `template` is one text and `templates` a list of texts.")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ShotfitError(f'in {shown(path)}, [names] is a table of lines such as Faces = "face".')
    return ClassNames(path, expand_templates(templates), names)
