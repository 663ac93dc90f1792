"""What the words of a command line mean: lists, numbers, views and options."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shotfit.errors import UsageError
from shotfit.files import LIST_BYTES, UnreadableError, read_text

if TYPE_CHECKING:
    from shotfit.fitting.fit import Needs, RecipeName
    from shotfit.fitting.jobs import FeatureType
    from shotfit.towers.layout import Savings
    from shotfit.towers.precision import Precision

__all__ = [
    "as_bands", "as_bytes", "as_classes", "as_dtype", "as_list", "as_methods", "as_needs", "as_numbers", "as_options",
    "as_precision", "as_repeated", "as_savings", "as_share", "as_validation", "as_views", "as_window",
    "first_given", "one_source", "sources_of",
]  # fmt: skip

MOST_DIGITS = 18  # of a whole number; Python refuses to read some thousands


def as_list(flag: str, text: str) -> list[str]:
    """Words between commas.

    >>> as_list("--without", "cut, silu")
    ['cut', 'silu']
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{flag} is {text!r}; expected words with single commas between them, as in a,b,c.")
    return words


def as_classes(text: str, flag: str = "--classes") -> list[str]:
    """Class names between commas, or of a file @FILE with one a line; quotes keep a comma, as in CSV.

    >>> as_classes('red kite, "gull, herring"')
    ['red kite', 'gull, herring']
    """
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            lines = read_text(path, LIST_BYTES, "class names").splitlines()
        except UnreadableError as error:
            raise UsageError(f"{flag} names the file {path}, which {error.reason}.") from None
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise UsageError(f"{flag} names the file {path}, which is empty; expected one class name a line.")
        return names
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        row = []
    if not row or not all(name.strip() for name in row):
        raise UsageError(
            f"{flag} is {text!r}; expected names with single commas between them, as in robin,wren (a name with a "
            "comma in double quotes), or @FILE with one name a line."
        )
    return [name.strip() for name in row]


def as_window(text: str | None) -> list[float] | None:
    """Two levels between commas.

    >>> as_window("-160,240")
    [-160.0, 240.0]
    """
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--window is {text!r}; expected two levels, those of black and of white: 0,1200.") from None
    return [low, high]


def as_bands(text: str | None) -> list[int] | None:
    """Numbers of bands between commas.

    >>> as_bands("4,3,2")
    [4, 3, 2]
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < MOST_DIGITS for word in words):
        raise UsageError(f"--bands is {text!r}; expected one number of a band, or three: 4,3,2.")
    return list(map(int, words))


def as_methods(text: str) -> list[str]:
    """Methods between commas, each with its options; a comma behind an option ends it where a method follows.

    >>> as_methods("coop,dualadapter+beta_grid=0,7,28+residuals=template,keys,taskres")
    ['coop', 'dualadapter+beta_grid=0,7,28+residuals=template,keys', 'taskres']
    """
    from shotfit.methods import in_file, names

    known, methods = names(), list[str]()
    for part in text.split(","):
        name = part.partition("+")[0].partition("@")[0].strip()
        if methods and "=" in methods[-1] and name not in known and not in_file(name):
            methods[-1] += f",{part}"
        else:
            methods.append(part)
    if not all(method.strip() for method in methods):
        raise UsageError(f"--methods is {text!r}; expected names with single commas between them, as in a,b,c.")
    return [method.strip() for method in methods]


def as_numbers(flag: str, text: str) -> list[int]:
    """Whole numbers between commas.

    >>> as_numbers("--shots", "1,4,16")
    [1, 4, 16]
    """
    words = as_list(flag, text)
    if not all(word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS for word in words):
        raise UsageError(f"{flag} is {text!r}; expected whole numbers with commas between them, as in 1,4,16.")
    return [int(word) for word in words]


def as_options(words: Sequence[str]) -> dict[str, str]:
    """Options of a method, each written name=value.

    >>> as_options(["length=4", "words=a photo of a"])
    {'length': '4', 'words': 'a photo of a'}
    """
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {word!r} is no option=value; write it as in --set alpha=0.5.")
        if name in options:
            raise UsageError(f"--set gives {name} twice; give it once.")
        options[name] = value
    return options


def as_repeated(flag: str, words: Sequence[str]) -> list[str]:
    """A flag with several values as the parser of arguments knows it: the flag again before each value.

    >>> as_repeated("--targets", ["--targets", "a", "b", "--shots", "1"])
    ['--targets', 'a', '--targets', 'b', '--shots', '1']
    """
    spread: list[str] = []
    values: int | None = None  # of the flag so far; None where another word came last
    for word in words:
        if values and not word.startswith("-"):
            spread.append(flag)
        values = 0 if word == flag else None if values is None or word.startswith("-") else values + 1
        spread.append(word)
    return spread


def as_views(text: str | None) -> int | Literal["center", "fresh"] | None:
    """Views: a number, "center" or "fresh"."""
    if text is None or text == "center" or text == "fresh":
        return text  # type: ignore[return-value]  # mypy does not narrow str to a literal
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) > 0):
        raise UsageError(f"--views is {text!r}; expected a number from 1, center or fresh.")
    return int(text)


def as_precision(text: str) -> Precision:
    """Precision of the towers."""
    if text in ("auto", "float32", "bfloat16", "int8"):
        return text  # type: ignore[return-value]  # as above
    raise UsageError(f"--precision is {text!r}; expected auto, float32, bfloat16 or int8.")


def as_dtype(text: str) -> FeatureType:
    """Type of features in files."""
    if text in ("float16", "float32"):
        return text  # type: ignore[return-value]  # as above
    raise UsageError(f"--dtype is {text!r}; expected float16 or float32.")


def as_needs(text: str | None) -> Needs | None:
    """What a race is to look for."""
    if text is None or text == "new-classes":
        return text  # type: ignore[return-value]  # as above
    raise UsageError(f"--needs is {text!r}; expected new-classes.")


def as_recipe(text: str) -> RecipeName:
    """How a method is trained."""
    if text in ("auto", "paper"):
        return text  # type: ignore[return-value]  # as above
    raise UsageError(f"--recipe is {text!r}; expected auto, or paper for the published one.")


def as_savings(text: str | None) -> Savings:
    """All savings but those named."""
    from shotfit.towers.layout import Savings

    return Savings() if text is None else Savings.without(as_list("--without", text))


def as_bytes(flag: str, size: str | None) -> int | None:
    """Bytes from a size such as 500M, at least one; None where none is given."""
    if size is None:
        return None
    from shotfit.engine.store import parse_size

    return max(parse_size(size, flag), 1)


def as_share(text: str | None) -> tuple[int, int]:
    """Share I of N; all of it where nothing is said.

    >>> as_share("3/8")
    (3, 8)
    """
    if text is None:
        return 1, 1
    number, slash, count = text.partition("/")
    words = [word if word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS else "" for word in (number, count)]
    if not (slash and all(words) and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part is {text!r}; expected I/N with I from 1 to N, as in 3/8.")
    return int(number), int(count)


def as_validation(text: str) -> Literal["few", "full"]:
    """How many images of a validation part a fit selects on."""
    if text == "few" or text == "full":
        return text  # type: ignore[return-value]  # as above
    raise UsageError(f"--validation is {text!r}; expected few (at most four images a class) or full.")


def first_given(flags: Mapping[str, object]) -> str | None:
    """The first of these flags, or other things by how they are called, that was given; None where none was.

    >>> first_given({"--task": None, "--coverage": 0.9})
    '--coverage'
    """
    return next((flag for flag, value in flags.items() if value), None)


def one_source(folder: Path | None, tasks: Path | None, of_folders: Mapping[str, object]) -> Path:
    """The folder, manifest or task list that is meant: exactly one of the first two.

    of_folders: what was given for flags that go with a folder alone, by flag.

    >>> str(one_source(None, Path("tasks.toml"), {"--images": None}))
    'tasks.toml'
    """
    if tasks is None:
        if folder is None:
            raise UsageError("Missing argument FOLDER: name a folder of images, or a task list with --tasks.")
        if folder.suffix == ".toml":
            raise UsageError(f"{folder} is no folder of images; if it is a task list, name it with --tasks.")
        return folder
    if folder is not None:
        raise UsageError(f"Both {folder} and the task list {tasks} were given: give one of them.")
    if tasks.suffix != ".toml":
        raise UsageError(f"--tasks is {tasks}; expected a task list, a file that ends in .toml.")
    given = first_given(of_folders)
    if given is not None:
        raise UsageError(f"{given} goes with a folder; in a task list each task says it for itself.")
    return tasks


def sources_of(folders: Sequence[Path] | None, tasks: Path | None, of_folders: Mapping[str, object]) -> list[Path]:
    """As `one_source`, where several folders or manifests may be named.

    >>> [str(source) for source in sources_of([Path("photos"), Path("flowers")], None, {})]
    ['photos', 'flowers']
    """
    places: list[Path | None] = [*folders] if folders else [None]
    return [one_source(place, tasks, of_folders) for place in places]
