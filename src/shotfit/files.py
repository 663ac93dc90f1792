"""Open files for reading, and write files and folders all or nothing. All of shotfit does both here.

    text = read_text(Path("labels.csv"), LIST_BYTES, "a manifest")
    with open_regular(path, IMAGE_BYTES, "an image") as file: ...
    write_atomically(Path("rows.csv"), data)
    with writing(Path("rows.csv")) as file: ...

What is read is a regular file: a pipe would keep a reader waiting for ever, a device may do something when it is
opened. It has a bound for its kind, which holds for what is read too: files grow. One that says it is empty, as those
of /proc do, is read up to a small bound.

What is written goes to a temporary name beside the target, is flushed, then renamed. The writer holds a lock on that
name; the next writer removes those that nobody holds any more. A folder that replaces another takes two renames. A
writer that is killed between them leaves the older one under a name that `standing` knows.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from shotfit.errors import ShotfitError
from shotfit.printing import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "CODE_BYTES",
    "HELD",
    "LIST_BYTES",
    "MODEL_BYTES",
    "SETTINGS_BYTES",
    "TEMPORARY",
    "WEIGHTS_BYTES",
    "UnreadableError",
    "can_hold",
    "check_regular",
    "is_exhausted",
    "open_regular",
    "read_bytes",
    "read_text",
    "remove_unfinished",
    "sha256",
    "standing",
    "write_atomically",
    "write_folder",
    "write_new",
    "writing",
]

TEMPORARY = ".shotfit-"  # prefix of temporary names
HELD = f"{TEMPORARY}held-"  # of those that their writer holds a lock on

# Bounds of files by kind, far above what honest ones have
CODE_BYTES = 16 * 2**20  # a file of code: a method
SETTINGS_BYTES = 64 * 2**20  # configurations, records, task lists, class names; real ones stay below 1 MiB
LIST_BYTES = 256 * 2**20  # manifests, split files, results: some million lines
MODEL_BYTES = 4 * 2**30  # what a method learned
WEIGHTS_BYTES = 32 * 2**30  # a backbone; the largest CLIP in float32 has 10 GiB

_UNFINISHED: dict[Path, Callable[[Path], None]] = {}  # what this process writes, and how to clear that away
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_UNFINISHED.clear)  # they are the parent's to remove

_BLOCK = 2**20
_UNSAID = 2**16  # bytes that are read of a file of size 0; that of /proc/self/pagemap ends nowhere
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # of file systems without hard links

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnreadableError(ShotfitError):
    """A file that is not read.

    reason: the sentence without the path: "is a pipe; expected a manifest, which is a regular file".
    missing: there is no such file.
    """

    reason, missing = "", False

    @classmethod
    def of(cls, path: object, reason: str, missing: bool = False) -> UnreadableError:
        """The error for a file, or what else has a name."""
        error = cls(f"{printable(path)} {reason}.")
        error.reason, error.missing = reason, missing
        return error


def open_regular(path: Path, limit: int, what: str, buffered: bool = True) -> BinaryIO:
    """A file that is open for reading, a regular one of at most `limit` bytes. Opening and reading never wait.

    what: the kind of file, as an error says it: "a manifest". Python's own OSError comes where the system has no more
    descriptors or memory, which is not the file's fault.

    Raises:
        UnreadableError: missing, not permitted, not a regular file, too large. Reading raises it where the file turns
            out to be longer than `limit`.
    """
    file = _opened(path, limit, what)
    return cast("BinaryIO", io.BufferedReader(file) if buffered else file)


def check_regular(path: Path, limit: int, what: str) -> int:
    """The size of a file that a library is to open by its path. Raises UnreadableError, as `open_regular` does."""
    with _opened(path, limit, what) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a file. Raises UnreadableError, as `open_regular` does."""
    with _opened(path, limit, what) as file:
        content, block = bytearray(), max(os.fstat(file.fileno()).st_size + 1, _BLOCK)
        try:
            while part := file.read(block):
                content += part
                block = _BLOCK
        except OSError as error:
            raise UnreadableError.of(path, f"cannot be read ({error.strerror})") from None
    return bytes(content)


def sha256(path: Path, limit: int, what: str) -> str:
    """The sha256 of a file's bytes as 64 hex digits. Raises UnreadableError, as `open_regular` does."""
    found, buffer = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with _opened(path, limit, what) as file:
        try:
            while length := file.readinto(buffer):
                found.update(buffer[:length])
        except OSError as error:
            raise UnreadableError.of(path, f"cannot be read ({error.strerror})") from None
    return found.hexdigest()


def read_text(path: Path, limit: int, what: str, errors: str = "strict") -> str:
    r"""The text of a UTF-8 file, without a byte order mark, with lines that end in \n.

    errors: what becomes of other bytes, as in `bytes.decode`.

    Raises:
        UnreadableError: as `open_regular` does, and where the file is not UTF-8 text.
    """
    try:
        text = read_bytes(path, limit, what).decode("utf-8-sig", errors)
    except UnicodeDecodeError:
        raise UnreadableError.of(path, "cannot be read (it is not UTF-8 text)") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_exhausted(error: OSError) -> bool:
    """Whether a file could not be opened because the system, not the file, has no more to give."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class _Bounded(io.FileIO):
    """A file that is not read beyond its bound, whatever size it says it has."""

    path: Path
    limit: int
    what: str

    def readinto(self, buffer: object) -> int:
        length = cast("int | None", super().readinto(buffer))  # type: ignore[arg-type]
        if length is None:  # /proc/kmsg would have us wait
            raise UnreadableError.of(
                self.path, f"has nothing to read now; expected {self.what}, which is a regular file"
            )
        if length and self.tell() > self.limit:
            raise _too_large(self.path, None, self.limit, self.what)
        if length and self.tell() > _UNSAID and not os.fstat(self.fileno()).st_size:
            reason = f"holds more than {_UNSAID:,} bytes, though its size is 0; expected {self.what}"
            raise UnreadableError.of(self.path, f"{reason}, which is a regular file")
        return length

    def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]
        return io.RawIOBase.read(self, -1 if size is None else size)  # by `readinto`

    def readall(self) -> bytes | None:  # type: ignore[override]
        return io.RawIOBase.readall(self)  # by `read`


def _opened(path: Path, limit: int, what: str) -> _Bounded:
    try:
        _check(path, path.stat(), limit, what)  # before opening, which has effects on some devices
        file = _Bounded(path, "rb", opener=_open_at_once)
        try:
            _check(path, os.fstat(file.fileno()), limit, what)  # what stands there now, whatever stood there before
        except BaseException:
            file.close()
            raise
    except UnreadableError:
        raise
    except OSError as error:
        if is_exhausted(error):
            raise
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise UnreadableError.of(path, f"cannot be read ({error.strerror})", missing) from None
    except ValueError:  # a zero byte, or what the file system cannot say
        raise UnreadableError.of(path, "cannot be read (no file can have that name)", missing=True) from None
    file.path, file.limit, file.what = path, limit, what
    return file


def _open_at_once(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _check(path: Path, found: os.stat_result, limit: int, what: str) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise UnreadableError.of(path, f"is {_KINDS.get(kind, 'no file')}; expected {what}, which is a regular file")
    if found.st_size > limit:
        raise _too_large(path, found.st_size, limit, what)


def _too_large(path: Path, size: int | None, limit: int, what: str) -> UnreadableError:
    count = "more bytes than" if size is None else f"{size:,} bytes, more than"
    return UnreadableError.of(path, f"has {count} the {limit:,} that are read of {what}")


def can_hold(path: Path) -> bool:
    """Whether a file or folder can be made under this name, as far as permissions tell."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, so that it is the old or the new one at every moment. Raises OSError, with the file's name."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name, and the place of an older one, once the block ends without an error.

    Raises OSError, with the file's name, where it cannot be written; errors of the block pass as they are.
    """
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path.parent, _made_file, path) as name:
        with _Written.open(name, path) as file:
            yield file
        with _named(path):
            name.chmod(0o666 & ~_umask())
            os.replace(name, path)
    with _named(path):
        _sync(path.parent)


def write_new(path: Path, blocks: Iterable[bytes], beside: Path) -> None:
    """Write a file of a name that nothing has yet; it is there as a whole or not at all.

    beside: a folder of the same file system for the temporary name, of few entries.

    Raises FileExistsError where there is something of that name, and OSError with the file's name.
    """
    with _temporary(beside, _made_file, path) as name:
        with _Written.open(name, path) as file:
            for block in blocks:
                file.write(block)
        with _named(path):
            name.chmod(0o666 & ~_umask())
            try:
                os.link(name, path)  # which never replaces anything, as a rename does
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
                os.replace(name, path)


class _Written(io.FileIO):
    """A file that is written under another name than errors tell."""

    told: Path

    @classmethod
    @contextmanager
    def open(cls, name: Path, told: Path) -> Iterator[BinaryIO]:
        """Buffered; on the disk when the block ends without an error."""
        with _named(told):
            raw = cls(name, "wb")
        raw.told = told
        try:
            file = io.BufferedWriter(raw, _BLOCK)
            yield cast("BinaryIO", file)
            file.flush()
            with _named(told):
                os.fsync(raw.fileno())
        finally:
            raw.close()  # what a full disk did not take is not tried again

    def write(self, data: object) -> int | None:  # type: ignore[override]
        with _named(self.told):
            return super().write(data)  # type: ignore[arg-type]


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, all or nothing. An existing one is moved aside and removed once the new one stands.

    Raises OSError, with the folder's name.
    """
    folder = folder.absolute()
    aside = _aside(folder)
    _UNFINISHED[folder] = _settle
    try:
        with _named(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _temporary(folder.parent, _made_folder, folder) as building:
                for name, data in files.items():
                    write_atomically(building / name, data)
                building.chmod(0o777 & ~_umask())
                if folder.exists():
                    _remove(aside.parent)  # of a writer that was killed once the folder stood
                    aside.parent.mkdir()
                    os.replace(folder, aside)
                os.replace(building, folder)
            _sync(folder.parent)
    finally:
        _settle(folder)
        _UNFINISHED.pop(folder, None)


def _settle(folder: Path) -> None:
    """Where a folder was not replaced after all, the older one takes its place again."""
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        os.replace(aside, folder)
    if folder.exists():
        _remove(aside.parent)


def standing(folder: Path) -> Path:
    """Where a folder's files are: in itself, or where a writer that was killed left the older ones."""
    return folder if folder.exists() or not _aside(folder).is_dir() else _aside(folder)


def _aside(folder: Path) -> Path:
    """Where a folder stands while it is replaced: beside what a link leads to."""
    folder = folder.resolve()
    return folder.with_name(f"{TEMPORARY}old-{folder.name}") / folder.name


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the system name what was to be written, and not a temporary name, or nothing."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _temporary(folder: Path, make: Callable[[Path], Path], told: Path) -> Iterator[Path]:
    """A name beside the target, which its writer holds a lock on. What still stands there in the end is removed.

    told: what is to be written, as errors name it.
    """
    _remove_left(folder)
    with _named(told):
        name, lock = _locked(folder, make)
    try:
        yield name
    finally:
        _remove(name)
        _UNFINISHED.pop(name, None)
        if lock is not None:
            os.close(lock)


def remove_unfinished() -> None:
    """Clear away what this process was still writing. A signal that ends a command may come between any two steps."""
    while _UNFINISHED:
        name, clear = _UNFINISHED.popitem()
        with suppress(OSError):
            clear(name)


def _made_file(folder: Path) -> Path:
    name = _new_name(folder)
    os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return name


def _made_folder(folder: Path) -> Path:
    name = _new_name(folder)
    name.mkdir(0o700)
    return name


def _new_name(folder: Path) -> Path:
    name = folder.absolute() / f"{HELD}{secrets.token_hex(8)}"
    _UNFINISHED[name] = _remove  # before it is made, so that no moment is without
    return name


def _locked(folder: Path, make: Callable[[Path], Path]) -> tuple[Path, int | None]:
    """A new name, and the descriptor whose lock ends when it is closed, or its process ends in any way."""
    while True:
        name = make(folder)
        if fcntl is None:
            return name, None
        lock = None
        try:
            lock = os.open(name, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if name.exists():
                return name, lock
        except (BlockingIOError, FileNotFoundError):  # another writer took it for a dead one's, and has just removed it
            pass
        except OSError as error:
            if is_exhausted(error):
                _remove(name)
                raise
            return name, lock  # a file system without locks, on which nothing is taken for a dead writer's either
        if lock is not None:
            os.close(lock)


def _remove_left(folder: Path) -> None:
    """Remove what writers left that were killed: names that nobody holds a lock on."""
    if fcntl is None:
        return
    with suppress(OSError):
        for entry in [entry for entry in os.scandir(folder) if entry.name.startswith(HELD)]:
            with suppress(OSError):  # held, gone, or not ours to remove
                lock = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(Path(entry.path))
                finally:
                    os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        if path.is_dir():  # it takes a descriptor, and there may be none left; an empty folder goes without
            with suppress(OSError):
                path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """Make the renames of a folder durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
