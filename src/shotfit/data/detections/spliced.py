"""JSON that is changed in a few places: where values stand in a text, and the text with others in their place.

    json = Json(text, "detections.json", "COCO's annotations")
    for key, at in json.members(json.start()): ...          # of an object, a value at a time
    for start, end, value in json.elements(at): ...         # of a list
    edits = json.put(start, end, {"score": "0.98"})         # in an object: replaced, or added at its end
    "".join(pieces(text, edits))

So a list of a million boxes takes the memory of its text, and all that is not changed stays as it was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple

from shotfit.data.formats.annotated import entry
from shotfit.errors import ShotfitError
from shotfit.files import writing

__all__ = ["Edit", "Json", "pieces", "write_pieces"]

_BLANK = re.compile(r"[ \t\n\r]*")


class Edit(NamedTuple):
    """What stands between two places, and what is to stand there."""

    start: int
    end: int
    text: str


class Json:
    """A JSON text. where, what: as an error names it, and the kind of file that is expected.

    end: where the list or object ended that was gone through last. Whatever is read raises ShotfitError where it is no
    JSON.
    """

    def __init__(self, text: str, where: str, what: str) -> None:
        self.text, self.where, self.what, self.end = text, where, what, 0
        self._decoder = json.JSONDecoder()

    def start(self) -> int:
        """Where the value begins."""
        return self._blank(0)

    def check_end(self) -> None:
        """Refuse what stands behind the value that was gone through."""
        if self._blank(self.end) != len(self.text):
            raise self._refused("there is more behind its end", self.end)

    def value(self, at: int) -> tuple[Any, int]:
        """The value that begins there, and where it ends."""
        try:
            return self._decoder.raw_decode(self.text, at)
        except (ValueError, RecursionError) as error:
            raise self._refused(str(error)[:200], at) from error

    def elements(self, at: int) -> Iterator[tuple[int, int, Any]]:
        """Where each element of the list that begins there starts and ends, and its value."""
        at = self._after(at, "[")
        closed = self.text[at : at + 1] == "]"
        while not closed:
            value, end = self.value(at)
            yield at, end, value
            at = self._blank(end)
            closed = self.text[at : at + 1] == "]"
            at = at if closed else self._after(at, ",")
        self.end = at + 1

    def objects(self, at: int, what: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The same of a list of objects. what: as an error names the list."""
        if self.text[at : at + 1] != "[":
            raise ShotfitError(f"{self.where}: {what} is {entry(self.value(at)[0])}; expected a list of objects.")
        for start, end, value in self.elements(at):
            if not isinstance(value, dict):
                raise ShotfitError(f"{self.where}: {what} holds {entry(value)}; expected a list of objects.")
            yield start, end, value

    def members(self, at: int) -> Iterator[tuple[str, int]]:
        """Each key of the object that begins there and where its value starts.

        The caller goes through all of a value, as `elements` and `members` do, or through nothing of it.
        """
        at = self._after(at, "{")
        closed = self.text[at : at + 1] == "}"
        while not closed:
            if self.text[at : at + 1] != '"':
                raise self._refused("a key is missing", at)
            try:
                key, end = scanstring(self.text, at + 1, True)
            except ValueError as error:
                raise self._refused(str(error)[:200], at) from error
            at = self.end = self._after(self._blank(end), ":")
            yield key, at
            at = self._blank(self.end if self.end > at else self.value(at)[1])
            closed = self.text[at : at + 1] == "}"
            at = at if closed else self._after(at, ",")
        self.end = at + 1

    def spans(self, at: int) -> dict[str, tuple[int, int]]:
        """Where the values of the object that begins there start and end."""
        found: dict[str, tuple[int, int]] = {}
        for key, start in self.members(at):
            self.end = self.value(start)[1]
            found[key] = start, self.end
        return found

    def put(self, start: int, end: int, values: Mapping[str, str]) -> list[Edit]:
        """The edits that give the object between two places these values, which are JSON."""
        spans = self.spans(start)
        edits = [Edit(*spans[key], value) for key, value in values.items() if key in spans]
        added = [f"{json.dumps(key)}: {value}" for key, value in values.items() if key not in spans]
        if added:
            behind = max((stop for _, stop in spans.values()), default=start + 1)
            edits.append(Edit(behind, behind, (", " if spans else "") + ", ".join(added)))
        return sorted(edits)

    def _blank(self, at: int) -> int:
        found = _BLANK.match(self.text, at)
        assert found is not None
        return found.end()

    def _after(self, at: int, sign: str) -> int:
        if self.text[at : at + 1] != sign:
            raise self._refused(f"Expecting {sign!r}", at)
        return self._blank(at + 1)

    def _refused(self, why: str, at: int) -> ShotfitError:
        return ShotfitError(f"{self.where} is not valid JSON ({why}, char {at}); expected a file of {self.what}.")


def pieces(text: str, edits: Iterable[Edit]) -> Iterator[str]:
    """The text with the edits, which come in their order, piece by piece.

    >>> "".join(pieces('{"a": 1}', [Edit(6, 7, "2")]))
    '{"a": 2}'
    """
    at = 0
    for start, end, new in edits:
        yield text[at:start]
        yield new
        at = end
    yield text[at:]


def write_pieces(out: Path, found: Iterable[str]) -> None:
    """Write a text piece by piece; the file is there once all of it is."""
    with writing(out) as file:
        for piece in found:
            file.write(piece.encode("utf-8", "surrogatepass"))
