"""Hostile checkpoints: configurations, safetensors headers, pickles and archives, tokenizers, index files."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.attacks.runner import Case, Family, Place
from tests.attacks.values import SPECIAL, VALUES, changed_somewhere, deep

__all__ = ["CHECKPOINTS", "parted", "safetensors"]

CHECKPOINTS = Family("checkpoints")
CONFIGS = {"backbone": "config.json", "hf": "config.json", "open_clip": "open_clip_config.json"}
WEIGHTS = {"backbone": "model.safetensors", "hf": "model.safetensors", "open_clip": "open_clip_model.safetensors"}


def opened(place: Place, random: Random, checkpoint: Path) -> Case:
    """A command that opens the checkpoint, and mostly runs it."""
    out = str(place.folder / "model")
    commands = [
        ["fit", str(place.base / "task"), "--method", "zero_shot", "--recipe", "paper", "--out", out],
        ["fit", "--classes", "red thing,blue", "--out", out],
        ["predict", str(place.base / "models" / "zero_shot"), str(place.base / "task" / "blue" / "0.png")],
    ]
    return Case([*random.choice(commands), "--backbone", str(checkpoint)])


# Configurations


def configured(form: str, kind: str) -> Callable[[Place, Random], Case]:
    """One or two entries of a configuration become odd values of a kind."""

    def make(place: Place, random: Random) -> Case:
        folder = place.copy(form)
        path = folder / CONFIGS[form]
        content = json.loads(path.read_text())
        for _ in range(random.choice([1, 1, 2])):
            changed_somewhere(content, VALUES[kind], random)
        path.write_text(json.dumps(content))
        return opened(place, random, folder)

    return make


for form in CONFIGS:
    for kind in VALUES:
        CHECKPOINTS.add(f"{form}_config_{kind}", configured(form, kind))

SIZES = ("layers", "num_hidden_layers", "width", "hidden_size", "mlp_width", "intermediate_size", "vocabulary", "vocab_size",
         "context", "context_length", "embed", "embed_dim", "projection_dim", "image_size", "size", "patch", "patch_size")  # fmt: skip


def sized(form: str) -> Callable[[Place, Random], Case]:
    """A size becomes huge: layers without end, towers that no memory holds."""

    def make(place: Place, random: Random) -> Case:
        folder = place.copy(form)
        path = folder / CONFIGS[form]
        text = path.read_text()
        known = [name for name in SIZES if f'"{name}": ' in text]
        for name in random.sample(known, random.choice([1, 1, 2])):
            start = text.index(f'"{name}": ') + len(name) + 4
            digits = len(text[start:]) - len(text[start:].lstrip("0123456789"))
            text = f"{text[:start]}{random.choice([10**6, 10**9, 2**63, '9' * 5000])}{text[start + digits :]}"
        path.write_text(text)
        return opened(place, random, folder)

    return make


for form in CONFIGS:
    CHECKPOINTS.add(f"{form}_huge_sizes", sized(form), 3)


@CHECKPOINTS.kind(3)
def config_no_json(place: Place, random: Random) -> Case:
    form = random.choice([*CONFIGS])
    folder = place.copy(form)
    name = random.choice([CONFIGS[form], "tokenizer.json", "preprocessor_config.json", "tokenizer_config.json"])
    text = [
        deep("[", 100_000),
        deep('{"a":', 3000),
        b"",
        b"\xff\xfe{",
        b"9" * 10_000,
        b'{"a": "' + b"\x1b[2J" * 9,
        b"[" * 999,
    ]
    (folder / name).write_bytes(random.choice(text))
    return opened(place, random, folder)


@CHECKPOINTS.kind(3)
def config_duplicate_keys(place: Place, random: Random) -> Case:
    folder = place.copy("backbone")
    text = (folder / "config.json").read_text()
    many = ", ".join(f'"{random.choice(["format", "backbone", "x"])}": {random.randrange(9)}' for _ in range(50_000))
    (folder / "config.json").write_text(text.rstrip()[:-1] + f", {many}}}")
    return opened(place, random, folder)


@CHECKPOINTS.kind(3)
def preprocessor_oddities(place: Place, random: Random) -> Case:
    folder = place.copy("hf")
    content: dict[str, Any] = {
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 32}, "crop_size": 32,
        "do_resize": True, "do_rescale": True, "resample": 3, "rescale_factor": 1 / 255,
        "image_processor_type": "CLIPImageProcessor",
    }  # fmt: skip
    for _ in range(random.choice([1, 2])):
        changed_somewhere(content, random.choice([*VALUES.values()]), random)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return opened(place, random, folder)


# safetensors


def parted(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors(header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


Damage = Callable[[dict[str, Any], bytes, Random], bytes]


def weights(times: int = 2) -> Callable[[Damage], Damage]:
    """Register a function from a file's header and data to the bytes of another."""

    def register(damage: Damage) -> Damage:
        def make(place: Place, random: Random) -> Case:
            form = random.choice([*WEIGHTS])
            folder = place.copy(form)
            path = folder / WEIGHTS[form]
            path.write_bytes(damage(*parted(path.read_bytes()), random))
            return opened(place, random, folder)

        CHECKPOINTS.add(f"safetensors_{damage.__name__}", make, times)
        return damage

    return register


def one_of(header: dict[str, Any], random: Random) -> str:
    return random.choice([name for name in header if name != "__metadata__"])


@weights(3)
def length_lies(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    return safetensors(header, data, random.choice([0, 1, 2**63, 2**64 - 1, 10**8, 99, len(json.dumps(header)) + 1]))


@weights()
def overlap(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    one, other = one_of(header, random), one_of(header, random)
    header[one]["data_offsets"] = header[other]["data_offsets"]
    return safetensors(header, data)


@weights(3)
def offsets(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    ends = [-1, 0, 2**63, 2**64, 1.5, None, "1", len(data), 10**30]
    header[one_of(header, random)]["data_offsets"] = random.choice([[random.choice(ends), random.choice(ends)], [], {}])
    return safetensors(header, data)


@weights(3)
def shapes(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    sizes = [[2**62, 2**62], [], [0], [-1, -1], [1] * 1000, [2**64], [1.5], ["a"], None, [10**30]]
    header[one_of(header, random)]["shape"] = random.choice(sizes)
    return safetensors(header, data)


@weights(3)
def types(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    kinds = ["F64", "I8", "BOOL", "U16", "F8_E4M3", "BF16", "F4", "\x1b[31m", "", None, 5, "C64", "I64"]
    header[one_of(header, random)]["dtype"] = random.choice(kinds)
    return safetensors(header, data)


@weights()
def header_depth(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    return safetensors(deep(random.choice(['{"a":', "["]), random.choice([200, 100_000])), data)


@weights()
def duplicate_names(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    text, name = json.dumps(header), one_of(header, random)
    return safetensors(f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}".encode(), data)


@weights()
def many_names(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    more = {
        f"extra.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(random.choice([9, 200_000]))
    }
    return safetensors(more | header, data)


@weights(3)
def odd_names(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    odd = random.choice(["\x1b[2J\x07", "a\u202eb", "x" * 10**6, "../../x", "\ud800", "", "a\nb\rc", "module."])
    name = one_of(header, random)
    renamed = {odd if key == name else key: value for key, value in header.items()}
    return safetensors(renamed, data)


@weights()
def metadata(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    odd = [{"format": "\x1b[31m"}, {"format": 5}, [], "x", {"a": "b" * 10**6}, {"format": None}]
    return safetensors(header | {"__metadata__": random.choice(odd)}, data)


@weights(3)
def odd_numbers(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    """Weights that are not finite, or so large that nothing computed with them is."""
    odd = np.float32(random.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0])).tobytes()
    start, end = header[one_of(header, random)]["data_offsets"]
    everywhere = random.random() < 0.5
    changed = odd * (len(data) // 4) if everywhere else data[:start] + odd * ((end - start) // 4) + data[end:]
    return safetensors(header, changed)


@weights()
def missing(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    """A tensor less, with the hole in the data closed."""
    name = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    start = header.pop(name)["data_offsets"][0]
    return safetensors(header, data[:start])


@weights()
def cut(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    whole = safetensors(header, data)
    return whole[: random.choice([0, 1, 7, 8, 9, random.randrange(len(whole))])]


@weights(4)
def flipped(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    whole = bytearray(safetensors(header, data))
    for _ in range(random.choice([1, 10])):
        whole[random.randrange(min(len(whole), random.choice([64, 4000, 10**9])))] = random.randrange(256)
    return bytes(whole)


@weights()
def other_kind(header: dict[str, Any], data: bytes, random: Random) -> bytes:
    return random.choice(
        [pickle.dumps({"a": 1}), b"PK\3\4" + bytes(99), b"version https://git-lfs\n\x1b[2J", b"\x93NUMPY" + bytes(99)]
    )


# Index files of checkpoints in shards


@CHECKPOINTS.kind(4)
def index_file(place: Place, random: Random) -> Case:
    folder = place.copy("hf")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    header = parted((folder / "model-00001-of-00001.safetensors").read_bytes())[0]
    shard: Any = random.choice(
        ["model-00001-of-00001.safetensors", "../x", "/etc/passwd", "a/b", "\x1b[2J", "", ".", 5, None, "model.safetensors.index.json",
         "x" * 300 + ".safetensors"]
    )  # fmt: skip
    names: Any = {name: shard for name in header if name != "__metadata__"} | {
        f"a{i}": shard for i in range(random.choice([0, 3]))
    }
    content = random.choice([{"weight_map": names}, {"weight_map": []}, {"weight_map": {"a\x1b": {}}}, [], {}])
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return opened(place, random, folder)


# What is no file


def special(make_at: Callable[[Path], None]) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        form = random.choice(["backbone", "hf", "open_clip", "file"])
        if form == "file":
            path = place.folder / random.choice(["clip.pt", "model.safetensors", "weights.bin"])
            make_at(path)
            return opened(place, random, path)
        folder = place.copy(form)
        beside = ["tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"]
        path = folder / random.choice([CONFIGS[form], WEIGHTS[form], "tokenizer.json", random.choice(beside)])
        path.unlink(missing_ok=True)
        make_at(path)
        return opened(place, random, folder)

    return make


for name, make_at in SPECIAL.items():
    CHECKPOINTS.add(f"special_{name}", special(make_at), 2)
