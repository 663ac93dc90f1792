"""JSON, XML and YAML as annotation tools write them, read within bounds: what is no such document is one sentence.

    read_json(Path("labels.json"), "Label Studio's exports")
    read_xml(Path("annotations.xml"), "CVAT's annotations")         # an ElementTree element
    read_yaml(Path("data.yaml"), "YOLO's data sets")                # every scalar stays text
    mentions(Path("labels.json"), "{", "images", "categories")      # a quick look, never an error

Text can be far larger in memory than on disk, so values are counted before they are made. XML with a document type is
refused, because entities are defined there; so are YAML's aliases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import yaml

from shotfit.data.images import shown
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, SETTINGS_BYTES, open_regular, read_bytes, read_text

__all__ = ["mentions", "parse_json", "parse_xml", "read_json", "read_xml", "read_yaml", "root_tag"]

MAX_GROUPS = 10_000_000  # lists and objects of a JSON document; COCO's largest file has 4 million
MAX_VALUES = 100_000_000
MAX_ELEMENTS = 5_000_000
MAX_DEPTH = 100
YAML_BYTES = 2**18  # 10,000 names of classes; a megabyte takes up to 17 seconds

_BLOCK = 2**20
_SEEN_BYTES = 2**30  # of a file that is only looked at


def mentions(path: Path, begin: str, *keys: str) -> bool:
    """Whether a file begins with a character, blanks aside, and has all of the keys in double quotes somewhere."""
    missing = [f'"{key}"'.encode() for key in keys]
    try:
        with open_regular(path, 2**44, "a list") as file:
            block = file.read(_BLOCK)
            if not block.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(begin.encode()):
                return False
            tail, seen = b"", 0
            while block and missing and seen < _SEEN_BYTES:
                missing = [key for key in missing if key not in tail + block]
                tail, seen = block[-256:], seen + len(block)
                block = file.read(_BLOCK)
    except (ShotfitError, OSError, ValueError):
        return False
    return not missing


def root_tag(content: bytes) -> str:
    """The name of the first element of XML, or of its document type, from its first bytes; "" where there is none."""
    parser = expat.ParserCreate()

    def found(name: str, *_: object) -> None:
        raise _FoundError(name)

    parser.StartElementHandler = parser.StartDoctypeDeclHandler = found  # before any entity is used
    try:
        parser.Parse(content, False)
    except _FoundError as name:
        return str(name)
    except (expat.ExpatError, ValueError, LookupError):
        pass
    return ""


class _FoundError(Exception):
    """Ends parsing at what was looked for."""


def read_json(path: Path, what: str, limit: int = LIST_BYTES, without: frozenset[str] = frozenset()) -> Any:
    """The value of a JSON file. without: keys that are dropped while it is read, of data that nobody looks at.

    Raises ShotfitError, as `read_text` does too.
    """
    return parse_json(shown(path), read_text(path, limit, f"a file of {what}"), what, without)


def parse_json(where: str, text: str, what: str, without: frozenset[str] = frozenset()) -> Any:
    """The value of a JSON text; `where` begins the sentence of an error."""
    if text.count("[") + text.count("{") > MAX_GROUPS or text.count(",") > MAX_VALUES:
        raise ShotfitError(f"{where} has more values than are read of {what}.")

    def kept(found: dict[str, Any]) -> dict[str, Any]:
        for key in without & found.keys():
            del found[key]
        return found

    try:
        return json.loads(text, object_hook=kept if without else None)
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{where} is not valid JSON ({str(error)[:200]}); expected a file of {what}.") from error


def read_xml(path: Path, what: str) -> ElementTree.Element:
    """The first element of an XML file. Raises ShotfitError, as `read_bytes` does too."""
    return parse_xml(shown(path), read_bytes(path, SETTINGS_BYTES, f"a file of {what}"), what)


def parse_xml(where: str, content: bytes, what: str) -> ElementTree.Element:
    """The first element of an XML document; `where` begins the sentence of an error."""
    parser = ElementTree.XMLParser(target=_Bounded())
    try:
        parser.feed(content)
        return parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ShotfitError(f"{where} is not valid XML ({str(error)[:200]}); expected a file of {what}.") from error


class _Bounded(ElementTree.TreeBuilder):
    """Refuses a document type, and more elements or levels than anybody needs."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.count = 0

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which is not read")

    def start(self, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > MAX_DEPTH or self.count > MAX_ELEMENTS:
            raise ValueError(f"it has more than {MAX_DEPTH} levels or {MAX_ELEMENTS:,} elements")
        return super().start(tag, attributes)

    def end(self, tag: str) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file, with all of its scalars as text: a class called `no` is no false.

    Raises ShotfitError: no YAML, an alias, more than MAX_DEPTH levels; and as `read_text` does.
    """
    text = read_text(path, YAML_BYTES, f"a file of {what}")
    loader: Callable[[str], Any] = _Plain
    try:
        return loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise ShotfitError(f"{shown(path)} is not valid YAML ({said}); expected a file of {what}.") from error


class _Plain(yaml.BaseLoader):  # type: ignore[misc]
    """Text, lists and mappings, without aliases."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*name), which is not read")
        if self.depth == MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} levels")
        self.depth += 1
        found = super().compose_node(parent, index)
        self.depth -= 1
        return found
