"""Hostile model folders: every entry of `adapter.json`, the tensors with a hash that fits again, and the files as such."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.attacks.checkpoints import parted, safetensors
from tests.attacks.runner import Case, Family, Place
from tests.attacks.values import NAMES, SPECIAL, VALUES, changed_somewhere, deep

__all__ = ["FOLDERS"]

FOLDERS = Family("folders")
METHODS = ("zero_shot", "linear_probe", "coop", "tip_adapter_f", "mma")
RECORD, WEIGHTS = "adapter.json", "adapter.safetensors"
Record = dict[str, Any]
Header = dict[str, Any]


def asked(place: Place, random: Random, folder: Path) -> Case:
    """A command that opens the model."""
    image, task, model = str(place.base / "task" / "blue" / "0.png"), str(place.base / "task"), str(folder)
    known = random.choice([place.backbone, place.backbone, place.backbone, [], ["--trust-backbone"]])
    commands = [
        ["predict", model, image, "--top", "3", *known],
        ["predict", model, task, "--format", random.choice(["csv", "jsonl"]), *known],
        ["predict", model, image, "--coverage", "0.9", "--unknown", *known],
        ["predict", model, image, "--classes", "red,blue", *known],
        ["predict", model, image, "--task", random.choice(["task", "other"]), *known],
        ["evaluate", model, task, "--all", *known],
        ["evaluate", model, str(place.base / "models" / "zero_shot"), task, "--all", *known],
        ["evaluate", model, task, "--json", *known],
        ["show", model],
        ["verify", model],
        ["fit", task, "--method", "zero_shot", "--recipe", "paper", "--out", model, *place.backbone],
    ]
    return Case(random.choice(commands))


def read(folder: Path) -> tuple[Record, Header, bytes]:
    return json.loads((folder / RECORD).read_text()), *parted((folder / WEIGHTS).read_bytes())


def write(folder: Path, record: Record, weights: bytes | None = None) -> None:
    """Both files; the record has the hash of the weights, as somebody would write it who wants them to be opened."""
    if weights is not None:
        (folder / WEIGHTS).write_bytes(weights)
        if "weights" in record:
            record["weights"] = hashlib.sha256(weights).hexdigest()
    (folder / RECORD).write_text(json.dumps(record))


def marked(record: Record, header: Header) -> Header:
    """The header with the mark of the record's classes."""
    mark = hashlib.sha256(json.dumps(record.get("classes"), sort_keys=True).encode()).hexdigest()
    return header | {"__metadata__": header.get("__metadata__", {}) | {"classes": mark}}


# adapter.json

KEYS = (
    "format", "method", "found_at", "options", "classes", "task", "names", "templates", "backbone", "name", "fingerprint",
    "precision", "preprocessing", "size", "mean", "std", "interpolation", "versions", "shotfit", "fitted_method", "shots",
    "seed", "support_images", "learned_images", "recipe", "views", "selection", "choice", "race", "training", "checked",
    "fell_back", "trust", "temperature", "scores", "weights", "length", "class_specific", "alpha", "position",
)  # fmt: skip


def entry(key: str) -> Callable[[Place, Random], Case]:
    """One entry of the record becomes another value."""

    def make(place: Place, random: Random) -> Case:
        folder = place.copy(f"models/{random.choice(METHODS)}", "model")
        record, header, data = read(folder)
        changed_somewhere(record, random.choice([*VALUES.values()]), random, [key])
        write(folder, record, safetensors(marked(record, header), data))
        return asked(place, random, folder)

    return make


for key in KEYS:
    FOLDERS.add(f"record_{key}", entry(key), 3)


def anywhere(kind: str) -> Callable[[Place, Random], Case]:
    """A few entries become values of one kind; the mark of the classes mostly fits."""

    def make(place: Place, random: Random) -> Case:
        folder = place.copy(f"models/{random.choice(METHODS)}", "model")
        record, header, data = read(folder)
        for _ in range(random.choice([1, 1, 3])):
            changed_somewhere(record, VALUES[kind], random)
        if random.random() < 0.8:
            header = marked(record, header)
        write(folder, record, safetensors(header, data))
        return asked(place, random, folder)

    return make


for kind in VALUES:
    FOLDERS.add(f"anywhere_{kind}", anywhere(kind), 4)


def recorded(times: int = 2) -> Callable[[Callable[[Record, Random], None]], Callable[[Record, Random], None]]:
    """Register a change of the record."""

    def register(change: Callable[[Record, Random], None]) -> Callable[[Record, Random], None]:
        def make(place: Place, random: Random) -> Case:
            folder = place.copy(f"models/{random.choice(METHODS)}", "model")
            record, header, data = read(folder)
            change(record, random)
            write(folder, record, safetensors(marked(record, header), data))
            return asked(place, random, folder)

        FOLDERS.add(change.__name__, make, times)
        return change

    return register


@recorded(6)
def backbone_paths(record: Record, random: Random) -> None:
    record["backbone"]["name"] = random.choice(
        ["/dev/zero", "/etc/passwd", "../../../x", "~nouser/x", "~", "", ".", "mini", "mini@x", "a/b", "a/b@" + "c" * 5000, "\x1b]0;x\x07",
         "x" * 5000, "a\0b", "\ud800", "openai/clip@main", "http://localhost:1/x", "ViT-B/32", "-x", "/proc/self/mem"]
    )  # fmt: skip


@recorded(6)
def methods(record: Record, random: Random) -> None:
    name = random.choice(["os:system", "evil.py:Evil", "/etc/passwd:x", "shotfit.methods.base:Method", "coop:CoOp", "\x1b[2J", "", ":", "a.b.c:d",
                          "zero_shot", "softcpt", "ensemble", "auto", "x" * 10_000, "../coop", "coop\0"])  # fmt: skip
    record["found_at"] = name
    if random.random() < 0.6:
        record["method"] = name


@recorded(4)
def option_values(record: Record, random: Random) -> None:
    odd = random.choice([*VALUES.values()])
    record["options"] |= {
        name: random.choice(odd)
        for name in record["options"]
        if random.random() < 0.7 and isinstance(random.choice(odd), (int, str, float))
    }
    if random.random() < 0.4:
        record["options"][random.choice(["__class__", "frozen", "x", "\x1b[2J", ""])] = 1


@recorded(5)
def class_lists(record: Record, random: Random) -> None:
    one = record["classes"][0]
    record["classes"] = random.choice(
        [[one] * 2, [one] * 3000, [one | {"names": []}], [one | {"names": one["names"] * 2}], [one | {"names": ["a"] * 50_000}],
         [one | {"names": [str(i) for i in range(50_000)]}], [one | {"templates": []}], [one | {"templates": ["{} {}"]}],
         [one | {"templates": ["{0.__class__}"]}], [one | {"templates": ["{}" * 10**4]}], [one | {"templates": ["{:>999999999}"]}],
         [one | {"templates": ["a photo of a {}."] * 3000}], [one | {"task": ""}], [one | {"names": ["", " ", "a"]}],
         [one | {"names": ["x" * 10**6, "b", "c"]}], [one, one | {"task": "other"}]]
    )  # fmt: skip


@recorded(6)
def class_names(record: Record, random: Random) -> None:
    odd = random.choice([*NAMES.values()])
    record["classes"][0]["names"][random.randrange(3)] = odd.encode("utf-8", "replace").decode()
    if random.random() < 0.4:
        record["classes"][0]["task"] = odd.encode("utf-8", "replace").decode()
    if random.random() < 0.3:
        record["classes"][0]["templates"] = [f"{odd.encode('utf-8', 'replace').decode().replace('{', '')} {{}}"]


@recorded(3)
def trust_numbers(record: Record, random: Random) -> None:
    numbers = [0, -1, 0.0, 1e-320, 1e308, float("nan"), float("inf"), True, "1"]
    record["trust"] |= {"temperature": random.choice(numbers), "plain_temperature": random.choice([*numbers, 1.0])}


@FOLDERS.kind(6)
def record_bytes(place: Place, random: Random) -> Case:
    """No JSON, or JSON that is hard to read."""
    folder = place.copy(f"models/{random.choice(METHODS)}", "model")
    path = folder / RECORD
    whole = path.read_bytes()
    path.write_bytes(
        random.choice(
            [b"", whole[: random.randrange(len(whole))], deep("[", 100_000), deep('{"a":', 5000), whole[:-2] + b', "format": 2' * 10**5 + b"}",
             whole.replace(b'"seed": 1', b'"seed": ' + b"9" * 6000), b"\xff\xfe" + whole, whole + b"\0" * 10**6, b"\xef\xbb\xbf" + whole,
             whole.replace(b"{", b'{"x": "' + b"y" * 3 * 10**7 + b'", ', 1), b"[]", b"null", b'"\x1b[2J"']
        )
    )  # fmt: skip
    return asked(place, random, folder)


@FOLDERS.kind(8)
def record_flipped(place: Place, random: Random) -> Case:
    folder = place.copy(f"models/{random.choice(METHODS)}", "model")
    path = folder / random.choice([RECORD, WEIGHTS])
    whole = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 3, 30])):
        whole[random.randrange(len(whole))] = random.randrange(256)
    path.write_bytes(whole)
    if random.random() < 0.7 and path.name == WEIGHTS:
        write(folder, json.loads((folder / RECORD).read_text()), bytes(whole))
    return asked(place, random, folder)


# adapter.safetensors, with the hash that fits

Damage = Callable[[Header, bytes, Random], tuple[Header, bytes]]


def tensors(times: int = 4) -> Callable[[Damage], Damage]:
    """Register a change of header and data."""

    def register(damage: Damage) -> Damage:
        def make(place: Place, random: Random) -> Case:
            folder = place.copy(f"models/{random.choice(METHODS)}", "model")
            record, header, data = read(folder)
            write(folder, record, safetensors(*damage(header, data, random)))
            return asked(place, random, folder)

        FOLDERS.add(f"tensor_{damage.__name__}", make, times)
        return damage

    return register


def one_of(header: Header, random: Random) -> str:
    return random.choice([name for name in header if name != "__metadata__"])


def packed(metadata: Any, arrays: dict[str, tuple[str, list[int], bytes]]) -> tuple[Header, bytes]:
    """Header and data of tensors: type, shape, content."""
    header, data = {"__metadata__": metadata}, b""
    for name, (kind, shape, content) in arrays.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return header, data


def unpacked(header: Header, data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: (value["dtype"], value["shape"], data[slice(*value["data_offsets"])])
        for name, value in header.items()
        if name != "__metadata__"
    }


@tensors(6)
def shape(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    held = unpacked(header, data)
    name = one_of(header, random)
    kind, old, content = held[name]
    count = int(np.prod(old))
    shapes = [[count], [1, count], [count, 1], [*old, 1], old[::-1], [1, *old]]
    held[name] = random.choice([(kind, random.choice(shapes), content), (kind, [0], b""), (kind, [0, *old], b"")])
    return packed(header["__metadata__"], held)


@tensors(6)
def rows(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    """A row more or less, or many."""
    held = unpacked(header, data)
    name = one_of(header, random)
    kind, old, content = held[name]
    if not old or not content:
        return header, data
    row, many = len(content) // old[0], random.choice([0, 1, old[0] - 1, old[0] + 1, old[0] * 1000])
    held[name] = kind, [many, *old[1:]], (content * (many // old[0] + 1))[: row * many]
    return packed(header["__metadata__"], held)


@tensors(6)
def types(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    held = unpacked(header, data)
    name = one_of(header, random)
    _, old, _ = held[name]
    new, size = random.choice(
        [
            ("F64", 8),
            ("F16", 2),
            ("BF16", 2),
            ("I64", 8),
            ("I32", 4),
            ("BOOL", 1),
            ("U8", 1),
            ("F8_E4M3", 1),
            ("C64", 8),
            ("U64", 8),
        ]
    )
    held[name] = new, old, bytes(random.choice([0, 1]) for _ in range(int(np.prod(old)) * size))
    return packed(header["__metadata__"], held)


@tensors(6)
def numbers(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    """Numbers that are not finite, or that make what is computed so."""
    held = unpacked(header, data)
    name = one_of(header, random)
    kind, old, content = held[name]
    odd = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 0.0, 1e30]
    if kind == "F32":
        held[name] = kind, old, np.full(len(content) // 4, random.choice(odd), np.float32).tobytes()
    elif kind == "I64":
        held[name] = (
            kind,
            old,
            np.full(len(content) // 8, random.choice([-1, 2**62, -(2**63), 10**9]), np.int64).tobytes(),
        )
    return packed(header["__metadata__"], held)


@tensors(6)
def names(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    held = unpacked(header, data)
    name = one_of(header, random)
    content = held.pop(name)
    odd = random.choice(
        [
            None,
            "\x1b[2J\x07",
            "a\u202eb",
            name.upper(),
            f"trust.{name}",
            "trust.x",
            "learned",
            "",
            "x" * 10**5,
            "__class__",
            "weight.0",
        ]
    )
    if odd is not None:
        held[odd] = content
    if random.random() < 0.3:
        held[name] = content
    return packed(header["__metadata__"], held)


@tensors(4)
def none(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    """No tensor, or another model's."""
    return random.choice(
        [packed(header["__metadata__"], {}), packed(header["__metadata__"], {"x": ("F32", [1], bytes(4))})]
    )


@tensors(3)
def many(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    held = unpacked(header, data) | {f"extra{i}": ("F32", [], bytes(4)) for i in range(random.choice([1, 30_000]))}
    return packed(header["__metadata__"], held)


@tensors(3)
def large(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    held = unpacked(header, data)
    held[random.choice([one_of(header, random), "extra"])] = "F32", [10**7], bytes(4 * 10**7)
    return packed(header["__metadata__"], held)


@tensors(4)
def metadata(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    mine = header["__metadata__"]
    odd = [
        {},
        None,
        mine | {"format": "\x1b"},
        mine | {"version": "x"},
        mine | {"version": "9" * 5000},
        mine | {"classes": ""},
        [],
        5,
    ]
    return header | {"__metadata__": random.choice(odd)}, data


@tensors(4)
def offsets(header: Header, data: bytes, random: Random) -> tuple[Header, bytes]:
    ends = [-1, 0, 2**63, 2**64, 1.5, None, len(data), 10**30]
    header[one_of(header, random)]["data_offsets"] = [random.choice(ends), random.choice(ends)]
    return header, data


@FOLDERS.kind(4)
def weights_of_another(place: Place, random: Random) -> Case:
    """The record of one method with the weights of another."""
    one, other = random.sample(METHODS, 2)
    folder, record = (
        place.copy(f"models/{one}", "model"),
        json.loads((place.base / "models" / one / RECORD).read_text()),
    )
    write(folder, record, (place.base / "models" / other / WEIGHTS).read_bytes())
    return asked(place, random, folder)


# The folder as such


def special(make_at: Callable[[Path], None]) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        folder = place.copy(f"models/{random.choice(METHODS)}", "model")
        name = random.choice([RECORD, WEIGHTS, WEIGHTS, "README.md", ""])
        path = folder / name if name else place.folder / "other"
        path.unlink(missing_ok=True)
        make_at(path)
        return asked(place, random, folder if name else path)

    return make


for name, make_at in SPECIAL.items():
    FOLDERS.add(f"special_{name}", special(make_at), 2)


def named(odd: str) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        folder = place.copy(f"models/{random.choice(METHODS)}", odd)
        if random.random() < 0.4:
            (folder / random.choice([RECORD, WEIGHTS])).write_bytes(random.choice([b"", b"{}", b"\x1b[2J"]))
        return asked(place, random, folder)

    return make


for name, odd in NAMES.items():
    FOLDERS.add(f"name_{name}", named(odd), 1)


@FOLDERS.kind(3)
def beside_a_model(place: Place, random: Random) -> Case:
    """Something hostile stands beside the files, where a fit would replace the folder."""
    folder = place.copy("models/zero_shot", "model")
    random.choice([*SPECIAL.values()])(folder / random.choice(["other", ".shotfit-x", "\x1b[2J", "desktop.ini"]))
    return Case(["fit", "--classes", "a,b", "--out", str(folder), *place.backbone])


@FOLDERS.kind(3)
def stands_aside(place: Place, random: Random) -> Case:
    """A model that a writer left aside, or what pretends to be one."""
    folder = place.folder / ".shotfit-old-model" / "model"
    if random.random() < 0.5:
        place.copy("models/coop", ".shotfit-old-model/model")
    else:
        folder.parent.mkdir()
        folder.symlink_to(random.choice(["/", "/proc", "model", "../.shotfit-old-model"]))
    return asked(place, random, place.folder / "model")


@FOLDERS.kind(3)
def linked(place: Place, random: Random) -> Case:
    """The model is a link, over others."""
    folder = place.copy("models/coop", "real")
    for i in range(random.choice([1, 30, 45])):
        (place.folder / f"link{i}").symlink_to(folder if i == 0 else f"link{i - 1}")
    last = max(place.folder.glob("link*"), key=lambda path: int(path.name[4:]))
    return asked(place, random, last)


@FOLDERS.kind(3)
def no_permission(place: Place, random: Random) -> Case:
    folder = place.copy("models/zero_shot", "model")
    os.chmod(random.choice([folder, folder / RECORD, folder / WEIGHTS]), 0)  # noqa: PTH101
    from tests.attacks.runner import without_privileges

    case = asked(place, random, folder)
    case.before = without_privileges
    return case
