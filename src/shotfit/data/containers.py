"""Files that hold many pictures: archives (.tar, .zip) by member, tables (.parquet, .arrow) by row.

    [name for name, size in members(Path("shard-0003.tar"))]
    with open_member(Path("shard-0003.tar"), "0001.jpg") as file: ...
    with open_member(Path("labels.parquet"), 17) as file: ...           # the bytes in the image column

An archive's index is read once, each member then from its place. Of a table the row groups last asked for are kept.
Both are read anew when the file changes, and in a process that was forked.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from shotfit.errors import ShotfitError, UsageError
from shotfit.files import open_regular

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ARCHIVES",
    "MAX_BYTES",
    "MAX_MEMBERS",
    "TABLES",
    "PartError",
    "arrow",
    "image_column",
    "is_container",
    "is_member",
    "is_table",
    "members",
    "open_member",
    "row_count",
    "table_of",
]

MAX_BYTES = 256 * 1024**2
"""Pictures of more bytes are not read."""
MAX_MEMBERS = 1_000_000
"""Archives of more members are not read."""
MAX_ARCHIVE = 2**44
MAX_GROUP_BYTES = 2 * 1024**3

ARCHIVES = (".tar", ".zip")
TABLES = (".parquet", ".arrow")

_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content")

_reading = threading.Lock()


class PartError(Exception):
    """A part of a file that is not there or cannot be read: the rest of a sentence about it ("is not in a.tar")."""


def is_container(path: Path) -> bool:
    """Whether a file with the ending of an archive or a table lies there."""
    try:
        return path.suffix.lower() in (*ARCHIVES, *TABLES) and stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_table(path: Path) -> bool:
    """Whether the ending is that of a table."""
    return path.suffix.lower() in TABLES


def members(path: Path) -> list[tuple[str, int]]:
    """Names and sizes of the files in an archive, in its order.

    Raises ShotfitError: no archive, damaged, or more than MAX_MEMBERS members.
    """
    return [(name, size) for name, (_, size) in _index(path).items()]


def is_member(path: Path, name: str) -> bool:
    """Whether an archive has a file of that name; not if it cannot be read."""
    try:
        return name in _index(path)
    except (ShotfitError, OSError):
        return False


def row_count(path: Path) -> int:
    """The number of rows of a table, which has a column of pictures.

    Raises ShotfitError: no table, damaged, or without such a column; UsageError where tables cannot be read.
    """
    pa = arrow()
    with _reading:
        try:
            _, ends = _groups(path, *_state(path))
        except (pa.ArrowException, OSError) as error:
            raise ShotfitError(f"{path} cannot be read as a table ({_first_line(error)}).") from error
    return ends[-1] if ends else 0


def open_member(path: Path, inside: str | int) -> BinaryIO:
    """The bytes of a member or of a row's image.

    Raises PartError, ShotfitError for a file that is no such container, OSError, and what the libraries raise.
    """
    if isinstance(inside, int):
        return io.BytesIO(_row(path, inside))
    index = _index(path)
    if inside not in index:
        raise PartError(f"is not in {path.name}, which has {len(index):,} files")
    read, size = index[inside]
    if size > MAX_BYTES:
        raise PartError(f"has {size:,} bytes, more than the {MAX_BYTES:,} that are read")
    return io.BytesIO(read())


Reader = Callable[[], bytes]


def _index(path: Path) -> dict[str, tuple[Reader, int]]:
    """How each file of an archive is read, and its size in bytes."""
    return _index_of(path, *_state(path))


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, os.getpid()


@lru_cache(maxsize=64)
def _index_of(path: Path, size: int, changed: int, process: int) -> dict[str, tuple[Reader, int]]:
    try:
        return _tar(path) if path.suffix.lower() == ".tar" else _zip(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise ShotfitError(f"{path} is no {path.suffix.lower()} archive that can be read ({error}).") from error


def _tar(path: Path) -> dict[str, tuple[Reader, int]]:
    found: dict[str, tuple[Reader, int]] = {}
    with open_regular(path, MAX_ARCHIVE, "an archive") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        number = 0
        while (member := archive.next()) is not None:
            _check_count(path, number)
            if member.isreg() and not member.issparse():
                found[member.name] = _slice(path, member.offset_data, member.size), member.size
            number += 1
            archive.members = []  # type: ignore[attr-defined]  # the library keeps all that it has seen
    return found


def _slice(path: Path, start: int, size: int) -> Reader:
    def read() -> bytes:
        with open_regular(path, MAX_ARCHIVE, "an archive") as file:
            file.seek(start)
            content = file.read(size)
        if len(content) < size:
            raise PartError("is truncated (the archive ends before it)")
        return content

    return read


def _zip(path: Path) -> dict[str, tuple[Reader, int]]:
    archive = zipfile.ZipFile(open_regular(path, MAX_ARCHIVE, "an archive"))  # kept open with the index
    found: dict[str, tuple[Reader, int]] = {}
    for number, member in enumerate(archive.infolist()):
        _check_count(path, number)
        if not member.is_dir():
            found[member.filename] = _unzipped(archive, member), member.file_size
    return found


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Reader:
    def read() -> bytes:
        with archive.open(member) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) != member.file_size:
            raise PartError("has another size than the archive says")
        return content

    return read


def _check_count(path: Path, number: int) -> None:
    if number >= MAX_MEMBERS:
        raise ShotfitError(f"{path} has more than {MAX_MEMBERS:,} members: make several archives of it.")


def arrow() -> Any:
    """The library that reads tables.

    Raises UsageError where it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "Tables (.parquet, .arrow) are read with pyarrow, which is not installed: pip install 'shotfit[data]'."
        ) from error
    return pyarrow


def table_of(path: Path, columns: list[str] | None = None) -> pyarrow.Table:
    """All rows of a .parquet or .arrow file, of some columns. Raises ShotfitError and UsageError."""
    pa = arrow()
    try:
        if path.suffix.lower() == ".parquet":
            return pa.parquet.read_table(path, columns=columns, use_threads=False, partitioning=None)
        with pa.memory_map(str(path)) as source:
            table = _stream(pa, source).read_all()
        return table if columns is None else table.select(columns)
    except (pa.ArrowException, OSError) as error:
        raise ShotfitError(f"{path} cannot be read as a table ({_first_line(error)}).") from error


def image_column(schema: pyarrow.Schema, path: Path) -> str:
    """The column that holds pictures: binary, or a struct with the field `bytes` as `datasets` writes it.

    Raises ShotfitError where there is none, or where several are no clearer by name.
    """
    pa = arrow()

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found = [field.name for field in schema if holds_bytes(field.type)]
    named = [name for name in _IMAGE_NAMES if name in {name.lower() for name in found}]
    if len(found) != 1 and named:
        found = [name for name in found if name.lower() == named[0]]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(schema.names[:8])
    which = "no column of pictures" if not found else f"several columns of pictures ({', '.join(found[:8])})"
    raise ShotfitError(f"{path} has {which}; its columns: {seen}. Expected one called image, of bytes.")


def _row(path: Path, row: int) -> bytes:
    pa = arrow()
    with _reading:
        try:
            groups, ends = _groups(path, *_state(path))
            number = next((number for number, end in enumerate(ends) if row < end), None)
            if number is None:
                raise PartError(f"is not in {path.name}, which has {ends[-1] if ends else 0:,} rows")
            start = ends[number - 1] if number else 0
            value = _group(path, groups, number, *_state(path))[row - start].as_py()
        except (pa.ArrowException, OSError) as error:
            raise PartError(f"cannot be read from its table ({_first_line(error)})") from error
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise PartError("holds no bytes of a picture")
    if len(value) > MAX_BYTES:
        raise PartError(f"has {len(value):,} bytes, more than the {MAX_BYTES:,} that are read")
    return value


@lru_cache(maxsize=64)
def _groups(path: Path, size: int, changed: int, process: int) -> tuple[Callable[[int], Any], list[int]]:
    """What reads the image column of a group of rows, and the number of rows up to the end of each group."""
    pa = arrow()
    ends: list[int] = []
    if path.suffix.lower() == ".parquet":
        file = pa.parquet.ParquetFile(path, memory_map=False)
        column = image_column(file.schema_arrow, path)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        for group in groups:
            ends.append((ends[-1] if ends else 0) + group.num_rows)

        def read(number: int) -> Any:
            if groups[number].total_byte_size > MAX_GROUP_BYTES:
                raise PartError(f"lies in a row group of more than {MAX_GROUP_BYTES:,} bytes")
            return file.read_row_group(number, columns=[column], use_threads=False).column(0)

        return read, ends
    source = pa.memory_map(str(path))
    batches = list(_stream(pa, source))
    column = image_column(batches[0].schema, path) if batches else ""
    for batch in batches:
        ends.append((ends[-1] if ends else 0) + batch.num_rows)
    return lambda number: batches[number].column(column), ends


@lru_cache(maxsize=2)
def _group(path: Path, read: Callable[[int], Any], number: int, size: int, changed: int, process: int) -> Any:
    return read(number)


def _stream(pa: Any, source: Any) -> Any:
    """The batches of an Arrow file in either of its two forms."""
    if source.read(6) == b"ARROW1":
        source.seek(0)
        reader = pa.ipc.open_file(source)
        return pa.RecordBatchReader.from_batches(
            reader.schema, [reader.get_batch(number) for number in range(reader.num_record_batches)]
        )
    source.seek(0)
    return pa.ipc.open_stream(source)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
