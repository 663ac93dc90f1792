"""The same few pictures in the layout of every format, as its own programs write it."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .pictures import picture

Pictures = dict[str, dict[str, list[bytes]]]
"""The bytes of PNGs by part and class."""

IDS = {"n01440764": "tench", "n01616318": "vulture"}
Write = Callable[[Path, Pictures], Path]


def pictures(parts: tuple[str, ...] = ("train", "val", "test")) -> Pictures:
    """Four different pictures a class and part."""
    found: Pictures = {}
    for number, part in enumerate(parts):
        found[part] = {
            name: [png(100 * number + 10 * place + i) for i in range(4)] for place, name in enumerate(IDS.values())
        }
    return found


def png(seed: int) -> bytes:
    content = io.BytesIO()
    picture(seed, 34, 33).save(content, "png")
    return content.getvalue()


def entries(given: Pictures) -> Iterator[tuple[str, str, int, bytes]]:
    """Part, class, running number and bytes of each."""
    number = 0
    for part, classes in given.items():
        for name, contents in classes.items():
            for content in contents:
                yield part, name, number, content
                number += 1


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folders(folder: Path, given: Pictures) -> Path:
    """`PART/CLASS/1.png`; without parts where there is one alone."""
    for part, name, number, content in entries(given):
        put(folder / (part if len(given) > 1 else "") / name / f"{number:03}.png", content)
    return folder


def labelled(folder: Path, given: Pictures) -> Path:
    """Class folders of which a picture a part lies in the wrong one, as somebody has said in the labelling page."""
    journal, moved = [{"shotfit": "labels", "version": 1}], set[str]()
    for part, name, number, content in entries(given):
        wrong = next(other for other in given[part] if other != name)
        path = f"{part}/{name if part in moved else wrong}/{number:03}.png"
        if part not in moved:
            journal += [{"at": 1.5, "labels": {path: label}} for label in ("something", name)]  # the last word counts
        moved.add(part)
        put(folder / path, content)
    put(folder / ".shotfit-labels.jsonl", "".join(json.dumps(line) + "\n" for line in journal).encode() + b'{"cut')
    return folder


# Manifests


def manifest(
    delimiter: str = ",",
    encoding: str = "utf-8",
    end: str = "\n",
    name: str = "{part}/{number:03}.png",
    header: tuple[str, ...] = ("path", "label", "split"),
    file: str = "labels.csv",
    top: str = "",
) -> Write:
    """A CSV of flat pictures. name: as it lists a picture; {folder} is its absolute folder."""

    def write(folder: Path, given: Pictures) -> Path:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(header)
        for part, label, number, content in entries(given):
            put(folder / part / f"{number:03}.png", content)
            writer.writerow([name.format(part=part, number=number, folder=folder), label, part][: len(header)])
        return put(folder / file, (top + text.getvalue()).encode(encoding))

    return write


def jsonl(folder: Path, given: Pictures) -> Path:
    lines = []
    for part, label, number, content in entries(given):
        put(folder / part / f"{number:03}.png", content)
        lines.append(json.dumps({"file": f"{part}\\{number:03}.png", "category": label, "split": part, "more": [1]}))
    return put(folder / "labels.jsonl", ("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())


# Hugging Face


def imagefolder(kind: str, in_parts: bool) -> Write:
    def write(folder: Path, given: Pictures) -> Path:
        rows: dict[str, list[dict[str, str]]] = {}
        for part, label, number, content in entries(given):
            put(folder / part / f"{number:03}.png", content)
            above, home = ("", part) if in_parts else (f"{part}/", "")
            rows.setdefault(home, []).append({"file_name": f"{above}{number:03}.png", "label": label})
        for home, listed in rows.items():
            path = folder / home / f"metadata.{kind}"
            if kind == "csv":
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, ["file_name", "label"])
                    writer.writeheader()
                    writer.writerows(listed)
            elif kind == "jsonl":
                path.write_text("".join(f"{json.dumps(row)}\n" for row in listed))
            else:
                pq.write_table(pa.Table.from_pylist(listed), path)
        return folder

    return write


def hub_table(given: dict[str, list[bytes]], names: list[str], struct: bool = True) -> pa.Table:
    """A part as `datasets` writes it: bytes with their path, and numbers that the schema's metadata names."""
    rows = [(content, label) for label, contents in given.items() for content in contents]
    images: list[Any] = [{"bytes": content, "path": "a.png"} if struct else content for content, _ in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata)
    return pa.table([images, [names.index(label) for _, label in rows]], schema=schema)


def parquet(name: str = "{part}-00000-of-00001.parquet", struct: bool = True) -> Write:
    def write(folder: Path, given: Pictures) -> Path:
        names = sorted({label for classes in given.values() for label in classes})
        for part, classes in given.items():
            path = folder / name.format(part=part)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(hub_table(classes, names, struct), path, row_group_size=3)
        return folder

    return write


def parquet_of_text(folder: Path, given: Pictures) -> Path:
    """Bytes beside labels and parts as text, in one file."""
    rows = [{"img": content, "species": label, "split": part} for part, label, _, content in entries(given)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "all.parquet")
    return folder / "all.parquet"


def parquet_of_paths(folder: Path, given: Pictures) -> Path:
    rows = []
    for part, label, number, content in entries(given):
        put(folder / f"{number:03}.png", content)
        rows.append({"path": f"{number:03}.png", "label": label, "split": part})
    pq.write_table(pa.Table.from_pylist(rows), folder / "all.parquet")
    return folder / "all.parquet"


def saved_dataset(folder: Path, table: pa.Table, names: list[str]) -> None:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    half = table.num_rows // 2
    files = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for file, part in zip(files, (table.slice(0, half), table.slice(half)), strict=True):
        with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "description": ""}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))


def datasets(folder: Path, given: Pictures) -> Path:
    """A DatasetDict on disk, or a Dataset where there is one part."""
    names = sorted({label for classes in given.values() for label in classes})
    if len(given) == 1:
        saved_dataset(folder, hub_table(given[next(iter(given))], names).replace_schema_metadata(), names)
        return folder
    for part, classes in given.items():
        saved_dataset(folder / part, hub_table(classes, names), names)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(given)}))
    return folder


# Archives


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def webdataset(name: str = "{part}-{shard:04}.tar", label: str = "cls", names: str = "classnames.txt") -> Write:
    """Two shards a part. label: "cls" holds numbers that a file names, others the names themselves."""

    def write(folder: Path, given: Pictures) -> Path:
        classes = sorted({label for one in given.values() for label in one})
        if label == "cls":
            put(folder / names, "\n".join(classes).encode())
        for part, label_of, number, content in entries(given):
            path = folder / name.format(part=part, shard=number % 2)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(path, "a") as archive:
                add(archive, f"{number:04}.png", content)
                told = {
                    "cls": ("cls", str(classes.index(label_of))),
                    "name": ("cls", label_of),
                    "json": ("json", json.dumps({"width": 3, "label": label_of})),
                    "txt": ("txt", f"{label_of}\n"),
                }[label]
                add(archive, f"{number:04}.{told[0]}", told[1].encode())
        return folder

    return write


def one_shard(folder: Path, given: Pictures) -> Path:
    webdataset("{part}-0.tar", "name")(folder, given)
    return folder / "train-0.tar"


def zipped(inside: str = "", slash: str = "/") -> Write:
    def write(folder: Path, given: Pictures) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
            for part, label, number, content in entries(given):
                name = f"{inside}{part if len(given) > 1 else ''}/{label}/{number:03}.png".lstrip("/")
                archive.writestr(name.replace("/", slash), content)
            archive.writestr("__MACOSX/._x.png", b"x")
        return folder / "photos.zip"

    return write


def tarred(folder: Path, given: Pictures) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for part, label, number, content in entries(given):
            add(archive, f"./{part if len(given) > 1 else '.'}/{label}/{number:03}.png", content)
    return folder / "photos.tar"


# WordNet ids


def by_id(file: str) -> Write:
    """Class folders by WordNet id, with a file of names beside them, or above."""
    ids = {name: one for one, name in IDS.items()}
    content = {
        ".json": json.dumps({str(i): [one, name] for i, (one, name) in enumerate(IDS.items())}),
        ".txt": "".join(f"{one} {name}, other name\n" for one, name in IDS.items()),
    }

    def write(folder: Path, given: Pictures) -> Path:
        renamed = {part: {ids[label]: found for label, found in classes.items()} for part, classes in given.items()}
        home = folder / "ILSVRC"
        put(home / file, content[Path(file).suffix].encode())
        return folders(home, renamed)

    return write


def tiny_imagenet(folder: Path, given: Pictures) -> Path:
    ids = {name: one for one, name in IDS.items()}
    lines = ""
    for part, label, number, content in entries(given):
        if part == "val":
            put(folder / "val" / "images" / f"val_{number}.png", content)
            lines += f"val_{number}.png\t{ids[label]}\t0\t32\t44\t62\n"
        elif part == "train":
            put(folder / "train" / ids[label] / "images" / f"{ids[label]}_{number}.png", content)
    put(folder / "test" / "images" / "test_0.png", png(7))
    put(folder / "val" / "val_annotations.txt", lines.encode())
    put(folder / "wnids.txt", "\n".join(IDS).encode())
    put(folder / "words.txt", "".join(f"{one}\t{name}, another\n" for one, name in IDS.items()).encode())
    return folder
