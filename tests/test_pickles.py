"""Pickled weights: nothing in them is ever run, and what they are not is said in one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from shotfit.checkpoints.archive import Archive
from shotfit.checkpoints.pickles import Machine
from shotfit.checkpoints.state_dict import read_tensors
from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError

from .checkpoints import huggingface_weights, openai_weights, write_huggingface


class Command:
    """Pickles as a call of os.system that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


# Archives, written by hand: `data.pkl` in protocol 2, as torch writes it


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, entries: int, kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cuda:0") + number(entries) + b"tQ"


def tensor(key: str, entries: int, size: bytes, stride: bytes, offset: int = 0) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = storage(key, entries) + number(offset) + size + stride + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def module(**attributes: bytes) -> bytes:
    items = b"".join(text(name) + value for name, value in attributes.items())
    return b"c__torch__.model\nModule\n)\x81}(" + items + b"ub"


def write(
    path: Path, body: bytes, members: dict[str, bytes] | None = None, compress: bool = False, script: bool = True
) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        if script:
            archive.writestr("model/constants.pkl", b"\x80\x02).")
        for name, content in (members or {}).items():
            archive.writestr(f"model/{name}", content)
    return path


FOUR = torch.arange(4.0).numpy().tobytes()
ROW = tensor("0", 4, numbers(4), numbers(1))


def test_archive_gives_tensors_by_their_dotted_names(tmp_path: Path) -> None:
    body = module(training=b"\x88", inner=module(weight=ROW, hook=b"N", sizes=b"]" + number(3) + b"a"))
    tensors = read_tensors(write(tmp_path / "a.pt", body, {"data/0": FOUR}))
    assert list(tensors) == ["inner.weight"]
    assert tensors["inner.weight"].read().tolist() == [0, 1, 2, 3]


def test_archive_tensor_may_be_a_part_of_its_storage(tmp_path: Path) -> None:
    body = module(weight=tensor("0", 4, numbers(2, 1), numbers(1, 4), offset=1))
    assert read_tensors(write(tmp_path / "a.pt", body, {"data/0": FOUR}))["weight"].read().tolist() == [[1], [2]]


def test_archive_of_torch_itself_is_read(tmp_path: Path) -> None:
    # a pickled state dict in a zip file is none, and is read as dicts
    torch.save(openai_weights(), tmp_path / "clip.pt")
    with Archive(tmp_path / "clip.pt") as archive:
        assert not archive.scripted
    assert read_tensors(tmp_path / "clip.pt").keys() == openai_weights().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_model_is_read_though_torch_compresses_its_code(tmp_path: Path) -> None:
    """As OpenAI publishes its models."""
    weights = openai_weights() | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(10)}
    model = nn.Module()
    for name, value in weights.items():
        place, (*modules, own) = model, name.split(".")
        for inner in modules:
            if not hasattr(place, inner):
                place.add_module(inner, nn.Module())
            place = getattr(place, inner)
        place.register_buffer(own, value)
    torch.jit.script(model).save(tmp_path / "clip.pt")
    with zipfile.ZipFile(tmp_path / "clip.pt") as file:
        assert any(member.compress_type == zipfile.ZIP_DEFLATED for member in file.infolist())
    torch.save(weights, tmp_path / "same.pt")
    assert load_backbone(tmp_path / "clip.pt").fingerprint == load_backbone(tmp_path / "same.pt").fingerprint


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"cposix\nsystem\n(" + text("true") + b"tR", "mentions posix.system"),
        (b"c__builtin__\neval\n(" + text("1") + b"tR", "mentions __builtin__.eval"),
        (b"ctorch._utils\n_rebuild_parameter\n(" + text("1") + b"tR", "mentions torch._utils._rebuild_parameter"),
        (b"ctorch\nload\n(" + text("x") + b"tR", "mentions torch.load"),
        (b"c__torch__.os\nsystem\n(" + text("true") + b"tR", "is refused: it calls"),
        (text("collections.OrderedDict") + b")R", "is refused: it calls collections.OrderedDict"),
        (b"ccollections\nOrderedDict\n(" + text("true") + b"tR", "is refused: it calls"),
        (b"(" + text("true") + b"iposix\nsystem\n", "uses the operation INST"),
        (b"\x93", "uses the operation STACK_GLOBAL"),
        (b"\x82\x01", "uses the operation EXT1"),
        (b"ctorch\nFloatStorage\n)\x81", "makes an object of"),
        (b"c__torch__.m\nM\n)\x81" + text("state") + b"b", "state is no dict"),
        (text("storage") + b"Q", "refers to a storage as storage"),
        (b"R", "cannot be followed"),
        (b"u", "cannot be followed"),
        (b"h\x07", "cannot be followed"),
        (number(1), "holds no module"),
    ],
)
def test_archive_that_asks_for_more_than_tensors_is_refused(tmp_path: Path, body: bytes, message: str) -> None:
    with pytest.raises(ShotfitError) as caught:
        read_tensors(write(tmp_path / "a.pt", body))
    assert message in str(caught.value)


def test_archive_of_a_pickled_command_runs_nothing(tmp_path: Path) -> None:
    body = pickle.dumps(Command(tmp_path / "trace"), protocol=2)[2:-1]
    with pytest.raises(ShotfitError, match=r"mentions posix\.system|mentions nt\.system"):
        load_backbone(write(tmp_path / "clip.pt", body))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "weight",
    [
        tensor("0", 4, numbers(5), numbers(1)),  # more entries than the storage has
        tensor("0", 4, numbers(4), numbers(1), offset=1),
        tensor("0", 4, numbers(2), numbers(4)),
        tensor("0", 4, numbers(1000, 1000), numbers(0, 0)),  # one entry, a million times
        tensor("0", 4, numbers(4), numbers(-1)),
        tensor("0", 4, numbers(4), numbers(1), offset=-1),
        tensor("0", 4, numbers(4), numbers(1, 1)),
        tensor("0", 8, numbers(8), numbers(1)),  # the member is shorter than the storage
        tensor("7", 4, numbers(4), numbers(1)),  # no such member
    ],
)
def test_archive_tensor_beyond_its_storage_is_refused(tmp_path: Path, weight: bytes) -> None:
    with pytest.raises(ShotfitError, match=r"a\.pt is damaged"):
        read_tensors(write(tmp_path / "a.pt", module(weight=weight), {"data/0": FOUR}))


def test_archive_of_compressed_members_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="claim more bytes than the file has"):
        read_tensors(write(tmp_path / "a.pt", module(weight=ROW), {"data/0": bytes(10**6)}, compress=True))


def test_archive_of_modules_in_a_circle_is_refused(tmp_path: Path) -> None:
    body = b"c__torch__.m\nM\n)\x81q\x01}" + text("inner") + b"h\x01" + b"sb"
    with pytest.raises(ShotfitError, match="modules contain each other"):
        read_tensors(write(tmp_path / "a.pt", body))


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", module(weight=ROW), {"data/0": FOUR})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ShotfitError, match=r"a\.pt is truncated, damaged or no weights file"):
        load_backbone(path)


def test_archive_member_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", module(weight=ROW), {"data/0": FOUR})
    content = bytearray(path.read_bytes())
    content[content.index(FOUR) + 5] ^= 1
    path.write_bytes(content)
    (weight,) = read_tensors(path).values()
    with pytest.raises(ShotfitError, match=r"a\.pt is damaged: 16 bytes from \d+ on have a wrong checksum"):
        weight.read()


# Pickles that are small and never end


def doubled(times: int) -> bytes:
    """A tuple of a tuple twice, of a tuple twice, ...: 2 ** times leaves, in a few bytes."""
    return b")" + b"q\x01h\x01\x86" * times


def modules_in_modules(times: int, new: bytes, fill: bytes) -> bytes:
    """A value that holds the one before under two names, and so on."""
    again = new + b"(" + text("a") + b"h\x01" + text("b") + b"h\x01u" + fill + b"q\x01"
    return b"(" + new + b"(" + text("w") + ROW + b"u" + fill + b"q\x01" + again * times + b"th\x01"


ONE_HASH = range(0, 50_000 * (2**61 - 1), 2**61 - 1)
OPERATIONS = [text("a"), number(3), *(bytes([operation]) for operation in b"(t)}]\x85\x86\x87aeusQRb\x81Nq0h0.")]

ENDLESS = {
    "printed": doubled(200) + b"Q",
    "called": doubled(200) + b")R",
    "an argument": b"ccollections\nOrderedDict\n" + doubled(200) + b"R",
    "a key": b"}" + doubled(200) + number(1) + b"s",
    "a size": tensor("0", 4, doubled(200), numbers(1)),
    "the whole": doubled(200),
    "walked": modules_in_modules(200, b"}", b""),
    "walked as modules": modules_in_modules(60, b"c__torch__.m\nM\n)\x81}", b"b"),
    "marks": b"(" * 100_000 + b"t" * 100_000,
    "steps": b"N" * 3_000_000,
    "memo": b"N" + b"".join(b"r" + index.to_bytes(4, "little") for index in range(1_000_001)),
    "depth": b")" + b"\x85" * 300_000,
    "keys of one hash": b"}(" + b"".join(b"\x8a\x20" + key.to_bytes(32, "little") + b"N" for key in ONE_HASH) + b"u",
    "a longest text": b"X\xff\xff\xff\xff",
    "a longest number": b"\x8b\xff\xff\xff\x7f",
    "more bytes than there are": b"\x8e" + (2**62).to_bytes(8, "little"),
}


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.timeout(20)
def test_small_pickle_without_end_is_refused_in_a_line(tmp_path: Path, kind: str, script: bool) -> None:
    path = write(tmp_path / "a.pt", ENDLESS[kind], {"data/0": FOUR}, script=script)
    with pytest.raises(ShotfitError) as caught:
        read_tensors(path)
    assert len(str(caught.value)) < 300 + len(str(path))
    assert "\n" not in str(caught.value)


@given(st.lists(st.sampled_from(OPERATIONS), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_pickle_gives_tensors_or_one_line(body: list[bytes]) -> None:
    for script in (False, True):
        with contextlib.suppress(ShotfitError):
            Machine("a.pt", script).run(b"\x80\x02" + b"".join(body))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_change_of_a_file_gives_tensors_or_one_line(data: st.DataObject) -> None:
    content = io.BytesIO()
    legacy = data.draw(st.booleans())
    torch.save({"a": torch.arange(4.0), "n": 3}, content, _use_new_zipfile_serialization=not legacy)
    changed = bytearray(content.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        path.write_bytes(changed[: data.draw(st.integers(0, len(changed)))])
        with contextlib.suppress(ShotfitError):
            for tensor in read_tensors(path).values():
                tensor.read()


# The zip file around it


def test_long_table_of_members_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", module(weight=ROW), {"data/0": FOUR, **{f"{n:060000}": b"" for n in range(150)}})
    with pytest.raises(ShotfitError, match=r"its table of members has [\d,]+ bytes"):
        read_tensors(path)


def test_member_named_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", module(weight=ROW), {"data/0": FOUR})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model/data/0", FOUR)
    with pytest.raises(ShotfitError, match="two of its members have the same name"):
        read_tensors(path)


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", module(weight=ROW), {"data/0": FOUR})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ShotfitError, match=r"is refused: its members"):
        read_tensors(path)


def test_one_storage_read_many_times_over_is_refused(tmp_path: Path) -> None:
    attributes = {f"w{n}": tensor("0", 400, numbers(400), numbers(1)) for n in range(500)}
    path = write(tmp_path / "a.pt", module(**attributes), {"data/0": bytes(1600)})
    path.write_bytes(path.read_bytes())
    with pytest.raises(ShotfitError, match="its tensors claim more bytes than the file has"):
        read_tensors(path)


# Other pickled files


def save_state_dict(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dict_with_a_command_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    content = openai_weights() | {"extra": Command(tmp_path / "trace")}
    torch.save(content, tmp_path / "clip.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ShotfitError, match=r"mentions (posix|nt)\.system, which a file of weights does not need"):
        load_backbone(tmp_path / "clip.pt")
    assert not (tmp_path / "trace").exists()


def test_bare_pickle_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(pickle.dumps(Command(tmp_path / "trace")))
    with pytest.raises(ShotfitError, match=r"clip\.pt is"):
        load_backbone(tmp_path / "clip.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_no_pickle_is_given_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    torch.save(openai_weights(), tmp_path / "clip.pt", _use_new_zipfile_serialization=not legacy)
    for module, name in ((torch, "load"), (pickle, "Unpickler"), (pickle, "loads")):
        monkeypatch.delattr(module, name)
    tensors = read_tensors(tmp_path / "clip.pt")
    assert tensors.keys() == openai_weights().keys()
    assert all(torch.equal(tensors[name].read(), value) for name, value in openai_weights().items())


def test_damaged_safetensors_are_not_replaced_by_the_pickled_twin(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    torch.save(huggingface_weights(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ShotfitError, match=r"model\.safetensors is truncated, damaged"):
        load_backbone(folder)


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], {}, {"a": "text"}, {"state_dict": {"a": [1, 2]}}, {1: torch.zeros(1)}]
)
def test_pickled_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ShotfitError, match="holds no state dict"):
        load_backbone(save_state_dict(content, tmp_path / "clip.pt"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not weights", bytes(100)])
def test_file_that_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.pt").write_bytes(content)
    with pytest.raises(ShotfitError, match=r"clip\.pt is"):
        load_backbone(tmp_path / "clip.pt")


def test_safetensors_of_openai_s_names_are_read_as_a_single_file(tmp_path: Path) -> None:
    save_file(openai_weights(), tmp_path / "clip.safetensors")
    assert load_backbone(tmp_path / "clip.safetensors").embed == 16
