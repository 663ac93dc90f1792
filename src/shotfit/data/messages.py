"""Whether a message of an Arrow file is compressed, before its batch is made: a small one can unpack to gigabytes.

    any(is_packed(message.metadata) for message in pyarrow.ipc.MessageReader.open_stream(source))

Read from the message's own description, a flatbuffer: https://github.com/apache/arrow/blob/main/format/Message.fbs.
"""

from __future__ import annotations

import struct

__all__ = ["is_packed"]

_DICTIONARY, _BATCH = 2, 3  # kinds of messages: a dictionary holds a batch
_KIND, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3  # numbers of fields: two of a message, one of each kind


def is_packed(description: bytes) -> bool:
    """Whether the buffers of the message's batch are compressed; so is a damaged one taken, which nobody can tell.

    description: the message's metadata.
    """
    try:
        (root,) = struct.unpack_from("<I", description)
        kind = _field(description, root, _KIND)
        of = description[kind] if kind else 0
        if of not in (_DICTIONARY, _BATCH):
            return False
        batch = _table(description, root, _HEADER)
        batch = _table(description, batch, _DATA) if of == _DICTIONARY else batch
        return bool(_field(description, batch, _COMPRESSION))
    except (struct.error, IndexError):
        return True


def _field(buffer: bytes, table: int, number: int) -> int:
    """Where a field of a table stands; 0 where it has none."""
    (back,) = struct.unpack_from("<i", buffer, table)
    fields = table - back
    (size,) = struct.unpack_from("<H", buffer, fields)
    if size < 2 * number + 6:
        return 0
    (offset,) = struct.unpack_from("<H", buffer, fields + 4 + 2 * number)
    return table + offset if offset else 0


def _table(buffer: bytes, table: int, number: int) -> int:
    """Where a table that is a field of another begins."""
    place = _field(buffer, table, number)
    (offset,) = struct.unpack_from("<I", buffer, place)
    return int(place + offset)
