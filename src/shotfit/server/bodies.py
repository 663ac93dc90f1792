"""The body of a request, multipart/form-data, read as it comes and bounded before it is kept.

    form = await read_form(scope, receive, limits, held)
    form.files      # [(name, bytes)], of the field `files`
    form.fields     # {"top": ["3"]}

What has come of all bodies together is counted in `held`, until the form is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from shotfit.server.limits import Held, Limits, RefusedError

__all__ = ["FILES", "Form", "read_form"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FILES = "files"  # the field of pictures

PART_HEADERS = 8
PART_HEADER_BYTES = 4096
NAME_LENGTH = 255  # characters of a picture's name that are kept

_EXPECTED = "expected multipart/form-data with the pictures in the field files, as in curl -F files=@photo.jpg"


@dataclass(frozen=True)
class Form:
    """What a request brought. files: name and content of each picture. fields: the texts of each other field."""

    files: Sequence[tuple[str, bytes]]
    fields: Mapping[str, Sequence[str]]


@asynccontextmanager
async def read_form(scope: Mapping[str, Any], receive: Receive, limits: Limits, held: Held) -> AsyncIterator[Form]:
    """The form, once all of it has come.

    Raises RefusedError: 400 for what is no form, or ends early; 408 where it comes too slowly; 413 where it is too
    large; 415 for another kind of body; 429 where too much is held.
    """
    headers = dict(scope["headers"])
    boundary = _boundary(headers.get(b"content-type", b""))
    announced = headers.get(b"content-length", b"")
    if announced.isdigit():
        _check_size(int(announced[:18]), limits)
    reader = _Reader(boundary, limits, held)
    try:
        try:
            await asyncio.wait_for(_read(receive, reader), limits.read_seconds)
        except asyncio.TimeoutError:
            raise RefusedError(
                408, f"The body came too slowly: all of it is expected within {limits.read_seconds} seconds."
            ) from None
        yield reader.form()
    finally:
        held.drop(reader.size)


async def _read(receive: Receive, reader: _Reader) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "The client left before its body had come.")
        more = message.get("more_body", False)
        reader.write(message.get("body", b""))


def _boundary(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type[:1024])
    if kind != b"multipart/form-data":
        shown = content_type[:100].decode("latin-1")
        raise RefusedError(415, f"The body is {shown or 'of no type that is said'!r}; {_EXPECTED}.")
    if not options.get(b"boundary"):
        raise RefusedError(400, f"The content type names no boundary; {_EXPECTED}.")
    return options[b"boundary"]


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.body:
        raise RefusedError(
            413, f"The body has {size:,} bytes or more; at most {limits.body:,} are read: send fewer pictures at once."
        )


class _Reader:
    """The parts of a form, as the parser finds them. size: the bytes that have come."""

    def __init__(self, boundary: bytes, limits: Limits, held: Held) -> None:
        self._limits, self._held = limits, held
        self.size = 0
        self._files = list[tuple[str, bytes]]()
        self._fields: dict[str, list[str]] = {}
        self._texts = 0  # fields so far
        self._text_bytes = 0
        self._options: dict[bytes, bytes] = {}
        self._header, self._value, self._part = bytearray(), bytearray(), bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": self._take,
                    "on_part_end": self._end_part,
                },
                max_header_count=PART_HEADERS,
                max_header_size=PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise RefusedError(400, f"The boundary cannot be used ({error}); {_EXPECTED}.") from None

    def write(self, data: bytes) -> None:
        """More of the body."""
        if not data:
            return
        self._held.add(len(data))
        self.size += len(data)
        _check_size(self.size, self._limits)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RefusedError(400, f"The body is no form ({error}); {_EXPECTED}.") from None

    def form(self) -> Form:
        """The whole of it, once everything has come."""
        if self._parser.state != MultipartState.END:
            raise RefusedError(400, f"The body ends before its last boundary; {_EXPECTED}.")
        if not self._files:
            raise RefusedError(400, f"The body has no picture; {_EXPECTED}.")
        return Form(self._files, self._fields)

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            kind, self._options = parse_options_header(bytes(self._value))
            if kind != b"form-data":
                self._options = {}
        self._header.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        if b"name" not in self._options:
            raise RefusedError(400, f"A part of the body has no name; {_EXPECTED}.")
        if b"filename" in self._options and not self._is_file():
            name = self._options[b"name"].decode("utf-8", "replace")[:100]
            raise RefusedError(400, f"A file came in the field {name!r}; {_EXPECTED}.")
        if self._is_file():
            if len(self._files) == self._limits.files:
                raise RefusedError(413, f"The body has more than {self._limits.files:,} pictures: send fewer at once.")
        elif self._texts == self._limits.fields:
            raise RefusedError(413, f"The body has more than {self._limits.fields:,} fields beside its pictures.")

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._part += memoryview(data)[start:end]
        if not self._is_file() and self._text_bytes + len(self._part) > self._limits.field_bytes:
            raise RefusedError(
                413, f"The fields beside the pictures have more than {self._limits.field_bytes:,} bytes together."
            )

    def _end_part(self) -> None:
        content = bytes(self._part)
        self._part = bytearray()
        options, self._options = self._options, {}
        if options[b"name"] == FILES.encode():
            name = options.get(b"filename", b"").decode("utf-8", "replace")[:NAME_LENGTH]
            self._files.append((name or f"image {len(self._files)}", content))
            return
        try:
            name, text = options[b"name"].decode(), content.decode()
        except UnicodeDecodeError:
            raise RefusedError(400, "A field beside the pictures is no text in UTF-8.") from None
        self._texts += 1
        self._text_bytes += len(content)
        self._fields.setdefault(name, []).append(text)

    def _is_file(self) -> bool:
        return self._options.get(b"name") == FILES.encode()
