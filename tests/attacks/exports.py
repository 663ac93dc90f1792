"""Hostile data of other programs: exports of annotation tools, tables of pictures, archives, lists of paths, labels of
`shotfit app`. Kinds of the family of tasks.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from tests.attacks.runner import Case, Place
from tests.attacks.tasks import TASKS
from tests.attacks.values import VALUES, changed_somewhere
from tests.formats import EXPORTS

ODD = (
    *(
        "nan",
        "-1",
        "1e400",
        "9" * 5000,
        "",
        "\x1b[2J",
        "\u202e",
        "/dev/zero",
        "../../../etc/passwd",
        "&x;",
        "<a>" * 5000,
    ),
    *(
        "http://localhost:1/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "\ufeff",
        "*x",
        "!!python/name:os",
    ),
)
TEXTS = (".json", ".xml", ".txt", ".csv", ".yaml", ".names")


def asked(place: Place, random: Random, source: Path, boxes: bool = False) -> Case:
    """A command that reads the data."""
    fit = ["fit", str(source), "--method", "zero_shot", "--recipe", "paper", "--out", "model", *place.backbone]
    commands = [["doctor", str(source)], ["doctor", str(source), "--several-labels"], fit, place.predict(source)]
    if boxes:
        commands.append([*place.predict(), "--boxes", str(source), "--out", str(place.folder / "out")])
    return Case(random.choice(commands))


# Exports


def exported(name: str) -> Callable[[Place, Random], Case]:
    """A text of an export is damaged: an entry of JSON, a word of anything else."""

    def make(place: Place, random: Random) -> Case:
        source = EXPORTS[name].write(place.folder / "set")
        texts = [path for path in sorted((place.folder / "set").rglob("*")) if path.suffix in TEXTS]
        if texts:
            path = random.choice(texts)
            path.write_bytes(damaged(path, random))
        return asked(place, random, source, EXPORTS[name].boxes)

    return make


def damaged(path: Path, random: Random) -> bytes:
    text = path.read_text()
    if path.suffix == ".json" and random.random() < 0.7:
        content = json.loads(text)
        changed_somewhere(content, random.choice([*VALUES.values()]), random)
        return json.dumps(content).encode()
    for _ in range(random.choice([1, 1, 3])):
        word = random.choice(list(re.finditer(r"[\w.]+", text)) or [None])
        if word is not None:
            text = text[: word.start()] + random.choice(ODD) + text[word.end() :]
    whole = text.encode("utf-8", "surrogatepass")
    return random.choice([whole, whole, whole[: random.randrange(len(whole) + 1)], whole * 50, b"\0" + whole])


for name in EXPORTS:
    TASKS.add(f"export_{name.replace(' ', '_')}", exported(name))


# Tables


@cache
def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 9)).save(content, "png")
    return content.getvalue()


def table(place: Place, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place.folder / "table.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


@TASKS.kind(4)
def table_cells(place: Place, random: Random) -> Case:
    pictures: Sequence[Any] = [{"bytes": png(), "path": "a.png"}] * 3
    tables: list[dict[str, Any]] = [
        {"image": [{"bytes": None, "path": "/dev/zero"}] * 3, "label": ["\x1b[2J", "", "b"]},
        {"\x1b[2J": pictures, "label": ["a", "b", "a"]},
        {"image": pictures, "label": [None, "a", "b"]},
        {"image": [[{"bytes": png()}], [], []], "label": ["a", "b", "a"]},
        {"path": ["/dev/zero", "/proc/self/mem", "\x00"], "label": [1, 2, 1]},
        {"image": pictures, "label": [1.5, float("nan"), 0.0]},
        {f"c{number}": [1, 2, 3] for number in range(2000)},
    ]
    return asked(place, random, table(place, random.choice(tables)))


@TASKS.kind(4)
def table_bytes(place: Place, random: Random) -> Case:
    path = table(place, {"image": [png()] * 3, "label": ["a", "b", "a"]})
    content = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 5, 40])):
        content[random.randrange(len(content))] = random.randrange(256)
    path.write_bytes(bytes(content[: random.choice([len(content), random.randrange(len(content))])]))
    return asked(place, random, path)


@TASKS.kind(4)
def table_bomb(place: Place, random: Random) -> Case:
    """One value that many rows have, by a dictionary: a megabyte of file, gigabytes of pictures or paths."""
    import pyarrow as pa

    value, rows = random.choice([(bytes(900_000), 5000), ("x" * 900_000, 5000), ("x" * 10**8, 50), (bytes(10**8), 50)])
    many = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [value])
    column = "image" if isinstance(value, bytes) else random.choice(["path", "label"])
    columns = {"path": ["a.png"] * rows, "label": ["a"] * rows} | {column: many}
    if column == "image":
        del columns["path"]
    return asked(place, random, table(place, columns, compression="zstd", store_schema=False))


# Archives


@TASKS.kind(6)
def tar(place: Place, random: Random) -> Case:
    path = place.folder / "x.tar"
    names = ["../../e.png", "/etc/e.png", "a/\x1b[2J.png", "/".join(["x"] * 3000) + ".png", "a\\..\\e.png", ".png"]
    with tarfile.open(path, "w") as archive:
        for name in ("a/0.png", "b/0.png", *random.sample(names, 2)):
            info = tarfile.TarInfo(name)
            info.size = len(png())
            info.pax_headers = random.choice(
                [{}, {}, {"size": "9" * 18}, {"GNU.sparse.realsize": "9" * 14, "path": "\x1b"}]
            )
            archive.addfile(info, io.BytesIO(png()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"a/{ord(kind)}.png")
            info.type, info.linkname = kind, random.choice(["/etc/passwd", f"a/{ord(kind)}.png"])
            archive.addfile(info)
    content = bytearray(path.read_bytes())
    if random.random() < 0.5:
        content[124:136] = random.choice([b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0"])
        total = sum(content[:148]) + 8 * ord(" ") + sum(content[156:512])
        content[148:156] = b"%06o\0 " % total
    path.write_bytes(bytes(content))
    return asked(place, random, path)


@TASKS.kind(6)
def packed(place: Place, random: Random) -> Case:
    path = place.folder / "x.zip"
    odd = ["../../e.png", "/etc/e.png", "a\\b\\c.png", "a/\x1b[2J.png", "a/" * 200 + "x.png"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/0.png", "b/0.png", *random.sample(odd, 2)):
            archive.writestr(name, png())
        archive.writestr("a/bomb.png", png()[:8] + bytes(random.choice([0, 5 * 10**7])))
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    how = random.choice(["fine", "sizes", "encrypted", "end"])
    if how == "sizes":
        content[entry + 20 : entry + 28] = random.choice([b"\xff" * 8, b"\0\0\0\0\0\0\0\x80", b"\0\0\0\x80\x08\0\0\0"])
    elif how == "encrypted":
        content[entry + 8] |= 1
    elif how == "end":
        end = content.index(b"PK\5\6")
        content[end + 8 : end + 20] = random.choice([b"\xff" * 12, bytes(12)])
    path.write_bytes(bytes(content))
    return asked(place, random, path)


# Lists of paths, labels of the app


@TASKS.kind(6)
def paths(place: Place, random: Random) -> Case:
    lines = random.choice(
        [
            b"x" * (2**20 + 5),
            b"\0\n0.png",
            b"::\n::0\nx.tar::",
            b"0.png#xywh=0,0,0,0\n0.png#xywh=" + b"9" * 5000 + b",1,1,1",
            b"0.png#t=nan\n0.png#t=" + b"9" * 500,
            b"file:///etc/passwd\nssh://x/y\nzip://a::b\nhttps://[::1",
            b"list.txt\n-\n/dev/zero\n/dev/stdin\n/proc/self/mem",
            b"\xff\xfe\xff",
            b"../" * 2000 + b"x.png\n~nouser/x.png",
            b"\x1b[2J.png\r\n\xe2\x80\xae.png\n**/**/**",
        ]
    )
    place.write("0.png", png())
    source = str(place.write("list.txt", lines + b"\n0.png\n"))
    more = random.choice([["--format", "jsonl"], ["--format", "csv"], ["--out", "parts"]])
    return Case(place.predict(random.choice([source, "-"]), *more), stdin=lines)


@TASKS.kind(4)
def labels_of_the_app(place: Place, random: Random) -> Case:
    folder, head = place.copy("task"), '{"shotfit": "labels", "version": 1}\n'
    lines = random.choice(
        [
            json.dumps({"labels": {"blue/0.png": "\x1b[2J", "../../x.png": "a", "/etc/passwd": "b"}}),
            json.dumps({"labels": {"blue/0.png": "", "\ud800": "\ud800"}}),
            json.dumps({"added": ["x" * 10**6], "labels": {"blue/0.png": "y"}}),
            "[" * 10**5,
            "\0",
            head * 1000,
        ]
    )
    (folder / ".shotfit-labels.jsonl").write_text(head + lines + "\n")
    return asked(place, random, folder)
