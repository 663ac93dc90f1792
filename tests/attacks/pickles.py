"""Hostile pickles and archives of tensors: what never ends, what is huge when it is unpacked, what asks to be run."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from random import Random

from tests.attacks.checkpoints import CHECKPOINTS, opened
from tests.attacks.runner import RAN, Case, Place

__all__: list[str] = []

# Pickles and archives: `data.pkl` by hand, in protocol 2, as torch writes it


def text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def module(**attributes: bytes) -> bytes:
    items = b"".join(text(name) + value for name, value in attributes.items())
    return b"c__torch__.model\nModule\n)\x81}(" + items + b"ub"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, entries: int, size: bytes, stride: bytes, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(entries) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + size + stride + b"\x89" + hooks + b"tR"


def archive(body: bytes, members: dict[str, bytes] | None = None, folder: str = "model", script: bool = True) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr(f"{folder}/data.pkl", b"\x80\x02" + body + b".")
        if script:
            whole.writestr(f"{folder}/constants.pkl", b"\x80\x02).")
        for name, content in ({"data/0": bytes(64)} if members is None else members).items():
            whole.writestr(f"{folder}/{name}", content)
    return file.getvalue()


def pickled(times: int = 2) -> Callable[[Callable[[Random], bytes]], Callable[[Random], bytes]]:
    """Register a function that gives a file's bytes, which is opened as `clip.pt` or in a folder of other names."""

    def register(content: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
        def make(place: Place, random: Random) -> Case:
            body = content(random)
            if random.random() < 0.7:
                return opened(place, random, place.write(random.choice(["clip.pt", "ViT-B-32.pt", "model.bin"]), body))
            folder = place.copy("hf")
            (folder / "model.safetensors").unlink()
            (folder / "pytorch_model.bin").write_bytes(body)
            return opened(place, random, folder)

        CHECKPOINTS.add(f"pickle_{content.__name__}", make, times)
        return content

    return register


def either(body: bytes, random: Random) -> bytes:
    """As TorchScript's archive, as torch's own, or as a bare pickle."""
    return random.choice([archive(body), archive(body, script=False), b"\x80\x02" + body + b"."])


@pickled(3)
def itself(random: Random) -> bytes:
    """A list or a dict that holds itself."""
    listed, table = b"]q\0h\0a", b"}q\0(" + text("a") + b"h\0u"
    return either(
        random.choice(
            [listed, table, module(x=listed), module(x=table), b"}q\0(" + text("a") + module(y=b"h\0") + b"u"]
        ),
        random,
    )


@pickled(4)
def shared(random: Random) -> bytes:
    """Lists or tuples of the one before, twice, thirty times over: 2^30 ways through."""
    tuples = b"]q\0" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(40))
    lists = b"]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40))
    tables = b"}q\0" + b"".join(b"}(" + text("a") + b"h%c" % i + text("b") + b"h%cuq%c" % (i, i + 1) for i in range(40))
    body = random.choice([tuples, lists, tables])
    return either(
        random.choice([body, module(x=body), b"}(" + body + number(1) + b"u", b"ctorch\nload\n(" + body + b"tR"]),
        random,
    )


@pickled(3)
def modules_shared(random: Random) -> bytes:
    body = module(weight=number(1)) + b"q\0"
    for i in range(40):
        body += module(a=b"h%c" % i, b=b"h%c" % i) + b"q%c" % (i + 1)
    return archive(body)


@pickled(2)
def marks(random: Random) -> bytes:
    """Marks that are looked for again and again from the top of the stack."""
    many = random.choice([1000, 200_000])
    return either(
        random.choice(
            [b"(" * many + b"t" * many, b"(" * many + b"0" * many + b"N", number(1) * many + b"(" + b"N" * many + b"t"]
        ),
        random,
    )


@pickled(2)
def nested(random: Random) -> bytes:
    many = random.choice([500, 200_000])
    return either(
        random.choice([b"]" * many + b"a" * (many - 1), b")" + b"\x85" * many, b"N" + b"\x85q\0" * many]), random
    )


@pickled(2)
def memo(random: Random) -> bytes:
    return either(
        random.choice([b"Nr\xff\xff\xff\xff", b"Np4294967295000\n", b"j\xff\xff\xff\x7f", b"g-1\n", b"Nq\0" * 500_000]),
        random,
    )


@pickled(3)
def lengths(random: Random) -> bytes:
    """Texts and numbers that claim more bytes than there are."""
    lies = [b"X\xff\xff\xff\xff", b"B\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 7 + b"\0", b"T\xff\xff\xff\x7f",
            b"\x8b\xff\xff\xff\x7f", b"I" + b"9" * 10_000 + b"\n", b"\x95" + b"\xff" * 8]  # fmt: skip
    return either(random.choice(lies), random)


@pickled(6)
def forbidden(random: Random) -> bytes:
    call = text(f"touch {RAN}")
    globals_ = [b"cposix\nsystem\n", b"cbuiltins\neval\n", b"csubprocess\ncall\n", b"cos\nsystem\n", b"c__main__\nX\n",
                b"ctorch.hub\nload\n", b"c\x1b[2J\n\x07\n", b"cshutil\nrmtree\n"]  # fmt: skip
    return either(random.choice(globals_) + b"(" + call + b"tR", random)


@pickled(2)
def calls(random: Random) -> bytes:
    """Allowed names, called with what they are not meant for."""
    names = [
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_parameter\n",
    ]
    arguments = [b")", b"(" + number(1) + b"t", b"(" + text("a") * 500 + b"t", b"(Nt", b"]"]
    return either(random.choice(names) + random.choice(arguments) + random.choice([b"R", b"\x81", b"\x81}b"]), random)


@pickled(4)
def storages(random: Random) -> bytes:
    sizes = [numbers(4), numbers(2**30, 2**30, 2**30), numbers(-4), numbers(), numbers(0), numbers(*[2] * 500)]
    strides = [numbers(1), numbers(0, 0, 0), numbers(-1), numbers(2**31 - 1), numbers(), numbers(*[0] * 500)]
    key = random.choice(["0", "../../etc/passwd", "/0", "\x1b[31m", "", "7", "0\0", "\ud800"])
    kind = random.choice(["FloatStorage", "ComplexFloatStorage", "QInt8Storage", "Tensor", "HalfStorage"])
    entries, offset = random.choice([4, 16, -1, 2**31 - 1]), random.choice([0, 3, -1, 2**31 - 1])
    one = tensor(key, entries, random.choice(sizes), random.choice(strides), offset, kind)
    return archive(random.choice([module(weight=one), b"}(" + text("weight") + one + b"u"]))


@pickled(2)
def odd_keys(random: Random) -> bytes:
    one = tensor("0", 4, numbers(4), numbers(1))
    keys = [
        number(5),
        b"N",
        b")",
        text("\x1b]0;x\x07"),
        text("a\u202eb"),
        text("\ud800"),
        text("x" * 10**6),
        b"G\x7f\xf8" + bytes(6),
        b"]",
    ]
    return either(b"}(" + random.choice(keys) + one + b"u", random)


@pickled(3)
def zip_bomb(random: Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])) as whole:
        name = random.choice(["model/data.pkl", "model/data/0", "model/constants.pkl", "model/version"])
        block = random.choice([b"\0", b"N", b"("]) * 2**20
        with whole.open(name, "w") as member:
            for _ in range(random.choice([64, 1500])):
                member.write(block)
        for other in {"model/data.pkl", "model/constants.pkl"} - {name}:
            whole.writestr(other, b"\x80\x02" + module(w=tensor("0", 4, numbers(4), numbers(1))) + b".")
    return file.getvalue()


@pickled(2)
def zip_overlap(random: Random) -> bytes:
    """Many entries of the directory that lead to the same member, or to none."""
    content = archive(module(w=tensor("0", 4, numbers(4), numbers(1))), {"data/0": bytes(10**6)})
    at, end = content.index(b"PK\1\2"), content.rindex(b"PK\5\6")
    entry, many = content[at:end], random.choice([2, 5000])
    count = min(content.count(b"PK\1\2") * many, 65535)
    tail = struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(entry) * many, at + random.choice([0, 3, 10**6]), 0
    )
    return content[:at] + entry * many + tail


@pickled(2)
def zip_names(random: Random) -> bytes:
    file, body = io.BytesIO(), b"\x80\x02" + module(w=tensor("0", 4, numbers(4), numbers(1))) + b"."
    with zipfile.ZipFile(file, "w") as whole:
        for name in random.sample(
            [
                "/etc/x/data.pkl",
                "../data.pkl",
                "data.pkl",
                "a/data.pkl",
                "b/data.pkl",
                "a/constants.pkl",
                "\x1b[2J/data.pkl",
            ],
            4,
        ):
            whole.writestr(name, body)
        for i in range(random.choice([0, 60_000])):
            whole.writestr(f"a/{i}", b"")
    return file.getvalue()


@pickled(4)
def zip_flipped(random: Random) -> bytes:
    content = bytearray(archive(module(w=tensor("0", 4, numbers(4), numbers(1))), script=random.random() < 0.5))
    for _ in range(random.choice([1, 5, 30])):
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content[: random.choice([len(content), random.randrange(len(content))])])


@pickled(4)
def random_operations(random: Random) -> bytes:
    codes = b"()]}.NtaeusRbQq\0h\0\x81\x85\x86\x87KX0120jrJMcio"
    return either(bytes(random.choice(codes) for _ in range(random.choice([10, 200, 5000]))), random)
