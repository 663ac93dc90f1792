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
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from shotfit.data.cells import MAX_COLUMN_BYTES, MAX_TEXT, long_texts, too_long
from shotfit.data.messages import is_packed
from shotfit.data.remote.addresses import Address
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import check_regular, open_regular
from shotfit.printing import cut

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ARCHIVES",
    "MAX_BYTES",
    "MAX_MEMBERS",
    "TABLES",
    "PartError",
    "Place",
    "arrow",
    "batches_of",
    "image_column",
    "is_container",
    "is_member",
    "is_table",
    "members",
    "open_member",
    "open_place",
    "picture_columns",
    "places",
    "row_count",
    "schema_of",
]

MAX_BYTES = 256 * 1024**2
"""Pictures of more bytes are not read."""
MAX_MEMBERS = 1_000_000
"""Archives of more members are not read."""
MAX_ARCHIVE = 2**44
ZIP_HEADER = 30  # bytes in front of a member and its name
MAX_GROUP_BYTES = 2 * 1024**3
MAX_UNPACKED = 256 * 1024**2
"""Bytes that a group of rows may unpack to, whatever it has in the file; pictures hardly get smaller when packed."""
MAX_RATIO = 10  # times that more may unpack to of what it has in the file
MAX_ROWS = 10_000_000
"""Tables of more rows are not read."""
_BATCH = 32_768  # rows
_PICTURES = 1024  # rows with pictures

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


def is_table(path: Path | Address) -> bool:
    """Whether the ending is that of a table."""
    return path.suffix.lower() in TABLES


def members(path: Path | Address) -> list[tuple[str, int]]:
    """Names and sizes of the files in an archive, in its order.

    Raises ShotfitError: no archive, damaged, or more than MAX_MEMBERS members.
    """
    return [(name, place.size) for name, place in _index(path).items()]


def is_member(path: Path, name: str) -> bool:
    """Whether an archive has a file of that name; not if it cannot be read."""
    try:
        return name in _index(path)
    except (ShotfitError, OSError):
        return False


def row_count(path: Path | Address) -> int:
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


def open_member(path: Path | Address, inside: str | int) -> BinaryIO:
    """The bytes of a member or of a row's image.

    Raises PartError, ShotfitError for a file that is no such container, OSError, and what the libraries raise.
    """
    if isinstance(inside, int):
        return io.BytesIO(_row(path, inside))
    index = _index(path)
    if inside not in index:
        raise PartError(f"is not in {path.name}, which has {len(index):,} files")
    return open_place(path, index[inside])


def open_place(path: Path | Address, place: Place) -> BinaryIO:
    """The bytes of a member of an archive that lies there; with the errors of `open_member`."""
    if place.size > MAX_BYTES:
        raise PartError(f"has {place.size:,} bytes, more than the {MAX_BYTES:,} that are read")
    with _opened(path) as file:
        return io.BytesIO(_plain(file, place) if place.method is None else _unzipped(file, place))


class Place(NamedTuple):
    """Where a member of an archive lies: its first byte (in a zip that of its header), and its size in bytes.

    packed, method, checksum: of a zip's member its size there, how it is packed, and the CRC-32 of what it holds.
    """

    start: int
    size: int
    packed: int = 0
    method: int | None = None
    checksum: int = 0


def _index(path: Path | Address) -> dict[str, Place]:
    """Where each file of an archive lies."""
    return _index_of(path, *_state(path))


def _state(path: Path | Address) -> tuple[int, int | str, int]:
    if isinstance(path, Address):
        from shotfit.data.remote.files import state

        return *state(path), os.getpid()
    found = path.stat()
    return found.st_size, found.st_mtime_ns, os.getpid()


def _opened(path: Path | Address, headers: bool = False) -> BinaryIO:
    """An archive, or a table elsewhere. headers: little is read of it, here and there."""
    if not isinstance(path, Address):
        return open_regular(path, MAX_ARCHIVE, "an archive")
    from shotfit.data.remote.files import RemoteFile

    return cast("BinaryIO", RemoteFile(path, MAX_ARCHIVE, headers))


@lru_cache(maxsize=64)
def _index_of(path: Path | Address, size: int, changed: int | str, process: int) -> dict[str, Place]:
    return dict(places(path))


def places(path: Path | Address) -> Iterator[tuple[str, Place]]:
    """The files in an archive, and where each lies, one by one: nothing but their headers is read, and nothing is kept.

    Raises as `members` does. In a tar that is damaged further on, the members before that have been told then.
    """
    try:
        with _opened(path, headers=True) as file:
            yield from _of_tar(path, file) if path.suffix.lower() == ".tar" else _of_zip(path, file)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OverflowError, ValueError, NotImplementedError) as error:
        raise ShotfitError(f"{path} is no {path.suffix.lower()} archive that can be read ({error}).") from error


def _of_tar(path: Path | Address, file: BinaryIO) -> Iterator[tuple[str, Place]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        number = 0
        while (member := archive.next()) is not None:
            _check_count(path, number)
            if member.isreg() and not member.issparse():
                yield member.name, Place(member.offset_data, member.size)
            number += 1
            archive.members = []  # type: ignore[attr-defined]  # the library keeps all that it has seen
        if 0 < file.seek(0, os.SEEK_END) - archive.offset < tarfile.BLOCKSIZE:  # which the library takes for an end
            raise tarfile.ReadError("it ends within a header")


def _of_zip(path: Path | Address, file: BinaryIO) -> Iterator[tuple[str, Place]]:
    with zipfile.ZipFile(file) as archive:
        for number, member in enumerate(archive.infolist()):
            _check_count(path, number)
            if not member.is_dir():
                method = -1 if member.flag_bits & 1 else member.compress_type  # -1: encrypted
                yield (
                    member.filename,
                    Place(member.header_offset, member.file_size, member.compress_size, method, member.CRC),
                )


def _plain(file: BinaryIO, place: Place) -> bytes:
    file.seek(place.start)
    content = file.read(place.size)
    if len(content) < place.size:
        raise PartError("is truncated (the archive ends before it)")
    return content


def _unzipped(file: BinaryIO, place: Place) -> bytes:
    """The bytes of a zip's member, which are never more than the zip says."""
    if place.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PartError("is encrypted or packed in a way that is not read: pack it again, as usual zip files are")
    header = _plain(file, Place(place.start, ZIP_HEADER))
    if header[:4] != b"PK\x03\x04":
        raise PartError("is not where the archive says")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    content = _plain(file, Place(place.start + ZIP_HEADER + names, min(place.packed, 2 * MAX_BYTES)))
    if place.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, place.size + 1)
        except zlib.error as error:
            raise PartError(f"is damaged ({error})") from error
    if len(content) != place.size or zlib.crc32(content) != place.checksum:
        raise PartError("is damaged (its size or checksum is not what the archive says)")
    return content


def _check_count(path: Path | Address, number: int) -> None:
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


def schema_of(path: Path) -> pyarrow.Schema:
    """The columns of a .parquet or .arrow file. Raises ShotfitError and UsageError."""
    pa = arrow()
    check_regular(path, MAX_ARCHIVE, "a table")
    try:
        if path.suffix.lower() == ".parquet":
            return pa.parquet.read_schema(path)
        with pa.memory_map(str(path)) as source:
            return _stream(pa, source).schema
    except (pa.ArrowException, OSError) as error:
        raise ShotfitError(f"{path} cannot be read as a table ({_first_line(error)}).") from error


def batches_of(path: Path, columns: list[str]) -> Iterator[pyarrow.RecordBatch]:
    """The rows of some columns of a .parquet or .arrow file, batch by batch; nothing else of it is read.

    Text of a .parquet file comes as dictionaries, so that a text that many rows have is there once.

    Raises ShotfitError, also for more than MAX_ROWS rows and for columns of more than MAX_COLUMN_BYTES, and UsageError.
    """
    pa = arrow()
    check_regular(path, MAX_ARCHIVE, "a table")
    rows = long = 0
    try:
        if path.suffix.lower() == ".parquet":
            kinds = {field.name: field.type for field in pa.parquet.read_schema(path)}
            text = [name for name in columns if kinds[name] in (pa.string(), pa.large_string())]
            with pa.parquet.ParquetFile(path, read_dictionary=text) as file:
                _check_columns(path, file.metadata, columns)
                for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
                    rows = _check_rows(path, rows + batch.num_rows)
                    long = _check_long(path, long + long_texts(path, batch))
                    yield batch
            return
        with pa.memory_map(str(path)) as source:
            for whole in _stream(pa, source):
                rows = _check_rows(path, rows + whole.num_rows)
                long = _check_long(path, long + long_texts(path, whole.select(columns)))
                for start in range(0, whole.num_rows, _BATCH):
                    yield whole.select(columns).slice(start, _BATCH)
    except (pa.ArrowException, OSError) as error:
        raise ShotfitError(f"{path} cannot be read as a table ({_first_line(error)}).") from error


def _check_rows(path: Path, rows: int) -> int:
    if rows > MAX_ROWS:
        raise ShotfitError(f"{path} has more than the {MAX_ROWS:,} rows that are read: make several tables of it.")
    return rows


def _check_long(path: Path, size: int) -> int:
    if size > MAX_COLUMN_BYTES:
        raise ShotfitError(
            f"{path} has more than {MAX_COLUMN_BYTES:,} bytes of long texts in its rows; expected paths and labels."
        )
    return size


def _check_columns(path: Path, metadata: pyarrow.parquet.FileMetaData, columns: list[str]) -> None:
    _check_rows(path, metadata.num_rows)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            size = column.total_uncompressed_size
            named = column.path_in_schema.split(".")[0]
            if named in columns and size > MAX_TEXT * max(column.num_values, 1):
                raise too_long(path, named)
            if named in columns and size > MAX_COLUMN_BYTES:
                raise ShotfitError(
                    f"{path} has {size:,} bytes in the column {column.path_in_schema}, more than the "
                    f"{MAX_COLUMN_BYTES:,} that are read of labels and paths."
                )


def picture_columns(schema: pyarrow.Schema) -> list[str]:
    """The columns that may hold pictures: binary, or structs with the field `bytes` as `datasets` writes them."""
    types = arrow().types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and types.is_binary(field.type) for field in kind) or any(
                field.name == "bytes" and types.is_large_binary(field.type) for field in kind
            )
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    return [field.name for field in schema if holds_bytes(field.type)]


def image_column(schema: pyarrow.Schema, path: Path | Address) -> str:
    """The column that holds pictures.

    Raises ShotfitError where there is none, or where several are no clearer by name.
    """
    found = picture_columns(schema)
    named = [name for name in _IMAGE_NAMES if name in {name.lower() for name in found}]
    if len(found) != 1 and named:
        found = [name for name in found if name.lower() == named[0]]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(schema.names[:8])
    which = "no column of pictures" if not found else f"several columns of pictures ({', '.join(found[:8])})"
    raise ShotfitError(f"{path} has {which}; its columns: {seen}. Expected one called image, of bytes.")


def _row(path: Path | Address, row: int) -> bytes:
    pa = arrow()
    with _reading:
        try:
            groups, ends = _groups(path, *_state(path))
            number = next((number for number, end in enumerate(ends) if row < end), None)
            if number is None:
                raise PartError(f"is not in {path.name}, which has {ends[-1] if ends else 0:,} rows")
            start = ends[number - 1] if number else 0
            group = _group(path, groups, number, *_state(path))
            if isinstance(group, PartError):
                raise PartError(str(group))
            value = group[row - start].as_py()
        except (pa.ArrowException, OSError) as error:
            raise PartError(f"cannot be read from its table ({_first_line(error)})") from error
    if isinstance(value, dict):
        elsewhere = value.get("path")
        value = value.get("bytes")
        if value is None and elsewhere:  # as `Dataset.to_parquet` writes pictures that lie in files
            raise PartError(
                f"holds the path {cut(str(elsewhere), 200)} and no picture: save the data set with its pictures "
                "(in `datasets`: save_to_disk)."
            )
    if not isinstance(value, bytes):
        raise PartError("holds no bytes of a picture")
    if len(value) > MAX_BYTES:
        raise PartError(f"has {len(value):,} bytes, more than the {MAX_BYTES:,} that are read")
    return value


@lru_cache(maxsize=64)
def _groups(
    path: Path | Address, size: int, changed: int | str, process: int
) -> tuple[Callable[[int], Any], list[int]]:
    """What reads the image column of a group of rows, and the number of rows up to the end of each group."""
    pa = arrow()
    ends: list[int] = []
    if path.suffix.lower() == ".parquet":
        file = pa.parquet.ParquetFile(_opened(path) if isinstance(path, Address) else path, memory_map=False)
        column = image_column(file.schema_arrow, path)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        for group in groups:
            ends.append((ends[-1] if ends else 0) + group.num_rows)

        return lambda number: _read_group(pa, file, column, number), ends
    if isinstance(path, Address):
        raise ShotfitError(f"{path} lies elsewhere, where Parquet is read and Arrow is not: copy it here first.")
    source = pa.memory_map(str(path))
    batches = list(_stream(pa, source))
    column = image_column(batches[0].schema, path) if batches else ""
    for batch in batches:
        ends.append((ends[-1] if ends else 0) + batch.num_rows)
    return lambda number: batches[number].column(column), ends


def _read_group(pa: Any, file: Any, column: str, number: int) -> Any:
    """The pictures of a group of rows. Raises PartError for one that unpacks to more than it should.

    What a value is, another row may say to have too (by a dictionary), so what unpacks is counted as it comes.
    """
    group = file.metadata.row_group(number)
    own = [group.column(place) for place in range(group.num_columns)]
    own = [one for one in own if one.path_in_schema.split(".")[0] == column]
    size, packed = sum(one.total_uncompressed_size for one in own), sum(one.total_compressed_size for one in own)
    most = min(MAX_GROUP_BYTES, max(MAX_UNPACKED, MAX_RATIO * packed))
    step = min(_PICTURES, max(1, MAX_UNPACKED // max(size, 1)))  # rows, each of which may have the largest value
    parts, found = list[Any](), 0
    batches = file.iter_batches(step, row_groups=[number], columns=[column], use_threads=False)  # read as it is asked
    for batch in () if size > most else batches:
        parts.append(batch.column(0))
        found += batch.nbytes
        if found > most:
            break
    if max(size, found) > most:
        raise PartError(f"lies in a row group that unpacks to more than {most:,} bytes")
    return pa.chunked_array(parts)


@lru_cache(maxsize=2)
def _group(
    path: Path | Address, read: Callable[[int], Any], number: int, size: int, changed: int | str, process: int
) -> Any:
    try:
        return read(number)
    except PartError as error:
        return error  # kept, so that it is not read again for each of its rows


def _stream(pa: Any, source: Any) -> Any:
    """The batches of an Arrow file in either of its two forms, of which one holds the other. Raises ArrowInvalid."""
    start = 8 if source.read(6) == b"ARROW1" else 0
    source.seek(start)
    if any(is_packed(message.metadata.to_pybytes()) for message in pa.ipc.MessageReader.open_stream(source)):
        raise pa.ArrowInvalid("its batches are compressed, or damaged: save it without compression, or as Parquet")
    source.seek(start)
    return pa.ipc.open_stream(source)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
