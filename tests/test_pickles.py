"""Pickled weights: nothing in them is ever run, and what they are not is said in one sentence."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shotfit.checkpoints.archive import is_archive, read_archive
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


def write(path: Path, body: bytes, members: dict[str, bytes] | None = None, compress: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        for name, content in (members or {}).items():
            archive.writestr(f"model/{name}", content)
    return path


FOUR = torch.arange(4.0).numpy().tobytes()
ROW = tensor("0", 4, numbers(4), numbers(1))


def test_archive_gives_tensors_by_their_dotted_names(tmp_path: Path) -> None:
    body = module(training=b"\x88", inner=module(weight=ROW, hook=b"N", sizes=b"]" + number(3) + b"a"))
    tensors = read_archive(write(tmp_path / "a.pt", body, {"data/0": FOUR}))
    assert list(tensors) == ["inner.weight"]
    assert tensors["inner.weight"].tolist() == [0, 1, 2, 3]


def test_archive_tensor_may_be_a_part_of_its_storage(tmp_path: Path) -> None:
    body = module(weight=tensor("0", 4, numbers(2, 1), numbers(1, 4), offset=1))
    assert read_archive(write(tmp_path / "a.pt", body, {"data/0": FOUR}))["weight"].tolist() == [[1], [2]]


def test_archive_of_torch_itself_is_read(tmp_path: Path) -> None:
    # a pickled state dict in a zip file is none, and torch's own restricted loader reads it
    torch.save(openai_weights(), tmp_path / "clip.pt")
    assert not is_archive(tmp_path / "clip.pt")
    assert read_tensors(tmp_path / "clip.pt").keys() == openai_weights().keys()


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
        read_archive(write(tmp_path / "a.pt", body))
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
        read_archive(write(tmp_path / "a.pt", module(weight=weight), {"data/0": FOUR}))


def test_archive_of_compressed_members_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="claim more bytes than the file has"):
        read_archive(write(tmp_path / "a.pt", module(weight=ROW), {"data/0": bytes(10**6)}, compress=True))


def test_archive_of_modules_in_a_circle_is_refused(tmp_path: Path) -> None:
    body = b"c__torch__.m\nM\n)\x81q\x01}" + text("inner") + b"h\x01" + b"sb"
    with pytest.raises(ShotfitError, match="modules contain each other"):
        read_archive(write(tmp_path / "a.pt", body))


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
    with pytest.raises(ShotfitError, match=r"a\.pt is truncated or damaged \(Bad CRC"):
        read_archive(path)


# Other pickled files


def save_state_dict(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dict_with_a_command_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    content = openai_weights() | {"extra": Command(tmp_path / "trace")}
    torch.save(content, tmp_path / "clip.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ShotfitError, match=r"asks to run (posix|nt)\.system, and a weights file may hold tensors only"):
        load_backbone(tmp_path / "clip.pt")
    assert not (tmp_path / "trace").exists()


def test_bare_pickle_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(pickle.dumps(Command(tmp_path / "trace")))
    with pytest.raises(ShotfitError, match=r"clip\.pt is"):
        load_backbone(tmp_path / "clip.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("version", ["2.4.0", "2.5.1+cu124", "2.9.1", "unknown"])
def test_old_torch_reads_no_pickled_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    path = save_state_dict(openai_weights(), tmp_path / "clip.pt")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ShotfitError, match=r"CVE-2025-32434, CVE-2026-24747.*safetensors.*torch 2\.10 or newer"):
        load_backbone(path)


def test_old_torch_reads_safetensors_and_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_huggingface(tmp_path / "folder")
    archive = write(tmp_path / "a.pt", module(weight=ROW), {"data/0": FOUR})
    monkeypatch.setattr(torch, "__version__", "2.4.0")
    assert load_backbone(folder).embed == 16
    assert read_tensors(archive).keys() == {"weight"}


def test_old_torch_never_tries_the_pickled_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
