"""Public functions say in one sentence which argument is of another type than they take.

    @checked
    def fit(data: str | Path, *, shots: int | None = None): ...

    fit("photos", shots="16")       # UsageError: fit: shots is '16'; expected a whole number or None.

The types are those of the signature, so that what is written for a type checker also holds at run time. Whether a
value of the right type can be used is for the function to say.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from shotfit.errors import UsageError

__all__ = ["checked"]

P = ParamSpec("P")
R = TypeVar("R")

LOOKED_AT = 1000  # of the entries of a list: more are not worth the wait

WORDS: dict[Any, tuple[str, str]] = {
    str: ("a text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "booleans"),
    Path: ("a path", "paths"),
    type(None): ("None", "None"),
}
"""What people call a type: one of it, and several."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each call against the signature's types before the function sees them.

    Raises UsageError for an argument of another type, and for arguments that the function does not have.
    """
    signature, name_of = inspect.signature(function), function.__qualname__

    @functools.cache
    def hints() -> dict[str, Any]:  # at the first call: importing is to stay fast
        return typing.get_type_hints(function)

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            given = signature.bind(*arguments, **named).arguments
        except TypeError as error:
            raise UsageError(f"{name_of}: {str(error).rstrip('.')}; see help(shotfit.{name_of}).") from None
        for name, value in given.items():
            hint = hints().get(name, Any)
            if not _fits(value, hint):
                raise UsageError(f"{name_of}: {name} is {_shown(value)}; expected {_said(hint)}.")
        return function(*arguments, **named)

    return call


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type; a kind of type that is not known here takes everything.

    >>> _fits(["a"], typing.Sequence[str]), _fits("a", typing.Sequence[str]), _fits(True, int)
    (True, False, False)
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return any(type(value) is type(part) for part in parts)
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, os.PathLike)
    if origin is collections.abc.Sequence:
        if isinstance(value, (str, bytes, collections.abc.Mapping)) or not _is_list(value):
            return False
        return not parts or all(_fits(entry, parts[0]) for entry in _first(value))
    if origin is collections.abc.Mapping:
        if not isinstance(value, collections.abc.Mapping):
            return False
        pairs = [*value.items()][:LOOKED_AT]
        return not parts or all(_fits(key, parts[0]) and _fits(own, parts[1]) for key, own in pairs)
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return callable(value)
    if origin is type:
        return isinstance(value, type)
    return not isinstance(hint, type) or isinstance(value, hint)


def _is_list(value: object) -> bool:
    return isinstance(value, collections.abc.Sequence) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


def _first(value: Any) -> Iterable[object]:
    for index, entry in enumerate(value):
        if index == LOOKED_AT:
            return
        yield entry


def _said(hint: Any, several: bool = False) -> str:
    """A type in words.

    >>> _said(typing.Optional[int]), _said(typing.Sequence[str] | Path)
    ('a whole number or None', 'a list of texts or a path')
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _or([word for part in parts for word in _words(part, several)])
    if origin is typing.Literal:
        return _or(_words(hint, several))
    if origin is collections.abc.Sequence:
        of = f" of {_said(parts[0], True)}" if parts else ""
        return f"lists{of}" if several else f"a list{of}"
    if origin is collections.abc.Mapping:
        return "mappings" if several else "a mapping, such as {'name': 'value'}"
    if origin is collections.abc.Callable:
        return "functions" if several else "a function"
    if hint is None:
        hint = type(None)
    if hint in WORDS:
        return WORDS[hint][several]
    name, home = getattr(hint, "__name__", str(hint)), str(getattr(hint, "__module__", "")).split(".")[0]
    whose = {"shotfit": "shotfit ", "PIL": "PIL "}.get(home, "")
    return f"{name} objects" if several else f"a {whose}{name}"


def _words(hint: Any, several: bool) -> list[str]:
    """A type in words, and each value of a literal by itself."""
    literal = typing.get_origin(hint) is typing.Literal
    return [repr(value) for value in typing.get_args(hint)] if literal else [_said(hint, several)]


def _or(words: list[str]) -> str:
    words = [*dict.fromkeys(words)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _shown(value: object) -> str:
    """A value in a sentence: short, on one line."""
    if value is None or isinstance(value, (str, bytes, int, float, os.PathLike)):
        text = repr(value)
    elif isinstance(value, (list, tuple, set, dict)):
        text = repr(value) if len(value) < 20 else f"a {type(value).__name__} of {len(value):,}"
    else:
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
