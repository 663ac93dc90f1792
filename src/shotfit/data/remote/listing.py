"""What a source elsewhere stands for: a folder of a bucket with all below it, a pattern, a file.

    for address in found(address_of("s3://bucket/shards/*.tar")): ...

A folder of S3 is listed page by page, in the order in which a folder of this machine is walked through: the files in
it by name, then its folders. Of other file systems one folder at a time is held. A host of the web has no folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from shotfit.data.remote.addresses import Address, check_address
from shotfit.data.remote.files import path_of, system, told
from shotfit.errors import ShotfitError

__all__ = ["below", "is_pattern", "matching"]

PAGE = 1000  # entries that S3 is asked for at once, which is also the most that it gives
_PATTERN = re.compile(r"[*?\[]")


def is_pattern(address: Address) -> bool:
    """Whether an address is a pattern: never on the web, where ? begins a query."""
    return not address.web and _PATTERN.search(address.text.partition("://")[2]) is not None


def matching(address: Address) -> Iterator[Address]:
    """What a pattern matches, sorted. Raises UnreadableError, as reading does."""
    check_address(address)
    folder, _, last = address.text.rpartition("/")
    if "://" in folder and not _PATTERN.search(folder.partition("://")[2]):
        for file, is_folder in _entries(Address(folder)):
            if not is_folder and fnmatchcase(file.name, last):
                yield file
        return
    try:
        paths = sorted(system(address).glob(path_of(address)))
    except Exception as error:
        told(address, error)
    yield from (address.below(path) for path in paths)


def below(folder: Address) -> Iterator[Address]:
    """The files below a folder; hidden ones and those in hidden folders are left out.

    Raises ShotfitError for an address of the web, and as reading does.
    """
    check_address(folder)
    if folder.web:
        raise ShotfitError(
            f"{folder} names a folder, and a host of the web tells no one what is in it: name its files in a list."
        )
    folders = list[Address]()
    for entry, is_folder in _entries(folder):
        if entry.name.startswith("."):
            continue
        if is_folder:
            folders.append(entry)
        else:
            yield entry
    for one in folders:
        yield from below(one)


def _entries(folder: Address) -> Iterator[tuple[Address, bool]]:
    """What is in a folder, sorted, and whether each is a folder; of S3 page by page."""
    try:
        found = system(folder)
        yield from _pages(found, folder) if folder.protocol in ("s3", "s3a") else _listed(found, folder)
    except Exception as error:
        told(folder, error)


def _pages(found: Any, folder: Address) -> Iterator[tuple[Address, bool]]:
    bucket, key, _ = found.split_path(path_of(folder))
    prefix = f"{key.rstrip('/')}/" if key else ""
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", "MaxKeys": PAGE, **found.req_kw}
    while True:
        page = found.call_s3("list_objects_v2", **asked)
        for one in page.get("Contents", ()):
            if one["Key"] != prefix and not one["Key"].endswith("/"):  # which mark folders
                yield folder.below(f"{bucket}/{one['Key']}"), False
        for one in page.get("CommonPrefixes", ()):
            yield folder.below(f"{bucket}/{one['Prefix'].rstrip('/')}"), True
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated") or not token or token == asked.get("ContinuationToken"):
            return
        asked["ContinuationToken"] = token


def _listed(found: Any, folder: Address) -> Iterator[tuple[Address, bool]]:
    path = path_of(folder)
    entries = found.ls(path, detail=True)
    for one in sorted(entries, key=lambda entry: str(entry["name"])):
        if one["name"].rstrip("/") != path.rstrip("/"):
            yield folder.below(one["name"].rstrip("/")), one["type"] == "directory"
