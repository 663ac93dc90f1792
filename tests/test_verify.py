"""Model folders that somebody changed, with hashes made anew: one clear line when they are opened, and by `verify`."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shotfit.commands.cli import main
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.fitting.record import HEADER_BYTES, record_of, weights_of
from shotfit.methods import METHODS, find
from shotfit.methods.ensemble import Ensemble
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

ALL = (*METHODS, "ensemble")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_task(home / "photos")
    tiny_backbone(home / "backbone")
    return home


@functools.cache
def backbone(home: Path) -> Backbone:
    from shotfit.checkpoints.weights import load_backbone

    return load_backbone(home / "backbone")


@functools.cache
def saved(home: Path, method: str) -> Path:
    """The folder of a fitted model, made once."""
    folder = home / f"of-{method}"
    if method == "ensemble":
        parts = [Model.open(saved(home, name), backbone(home)) for name in ("taskres", "linear_probe")]
        ensemble = Ensemble.of([part.method for part in parts], [1.0, 2.0])
        return Model(ensemble, parts[0].frozen, parts[0].record | record_of(ensemble, backbone(home))).save(folder)
    epochs = 1 if find(method)().training_recipe() else None
    return fit(
        home / "photos", method, options={"length": "2"} if method in ("coop", "coop_mt", "softcpt") else {},
        shots=3, epochs=epochs, recipe="paper", keep=True, backbone=backbone(home), store=MemoryStore(),
        check=method == "taskres",
    ).save(folder)  # fmt: skip


Tensors = dict[str, Tensor]
Record = dict[str, Any]


def forged(
    source: Path,
    target: Path,
    tensors: Callable[[Tensors], object] = lambda _: None,
    record: Callable[[Record], object] = lambda _: None,
) -> Path:
    """A copy with other tensors or another record, whose hashes are made anew."""
    shutil.copytree(source, target)
    content = json.loads((source / "adapter.json").read_text())
    held = load_file(source / "adapter.safetensors")
    record(content)
    tensors(held)
    weights = weights_of(held, content["classes"])
    (target / "adapter.safetensors").write_bytes(weights)
    (target / "adapter.json").write_text(json.dumps(content | {"weights": hashlib.sha256(weights).hexdigest()}))
    return target


def refused(folder: Path, home: Path, method: str | None = None) -> str:
    """The one line that says why the folder is not opened."""
    with pytest.raises(ShotfitError) as error:
        Model.open(folder, backbone(home), method=method)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("method", ALL)
def test_every_method_declares_its_tensors(home: Path, method: str) -> None:
    opened = Model.open(saved(home, method), backbone(home))
    assert opened.method.all_declared() is not None


@pytest.mark.parametrize("method", ALL)
def test_tensors_that_are_not_those_of_the_method_are_refused(home: Path, tmp_path: Path, method: str) -> None:
    source = saved(home, method)
    held = load_file(source / "adapter.safetensors")
    names = [name for name in held if name.split(".")[0] not in ("trust", "learned")]
    changes: list[tuple[str, Callable[[Tensors], object]]] = [
        ("has no place for", lambda held: held.update({"parameter.more": torch.zeros(2)})),
        ("has no place for", lambda held: held.update({"x": torch.zeros(2)})),
    ]
    for name in names[:: max(1, len(names) // 8)]:  # of a tower's hundreds of weights some
        changes += [
            ("lacks", lambda held, name=name: held.pop(name)),  # type: ignore[misc]
            ("of shape", lambda held, name=name: held.update({name: torch.zeros(3, 4, 5, 6)})),  # type: ignore[misc]
            ("of shape", lambda held, name=name: held.update({name: held[name][None]})),  # type: ignore[misc]
            ("where .* is expected|of int32", lambda held, name=name: held.update({name: held[name].int()})),  # type: ignore[misc]
            ("which no method keeps", lambda held, name=name: held.update({name: held[name].bool()})),  # type: ignore[misc]
        ]
        if held[name].is_floating_point():
            changes.append(("not finite", lambda held, name=name: held[name].fill_(torch.nan)))  # type: ignore[misc]
    for number, (sentence, change) in enumerate(changes):
        said = refused(forged(source, tmp_path / str(number), change), home)
        assert re.search(sentence, said), (sentence, said)


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_label_of_a_cache_that_is_no_class_is_refused(home: Path, tmp_path: Path, label: int) -> None:
    folder = forged(saved(home, "dualadapter"), tmp_path / "m", lambda held: held["buffer.labels"].fill_(label))
    assert "has a number in buffer.labels that is not from 0 to 2" in refused(folder, home)


def test_caches_of_two_sizes_are_refused(home: Path, tmp_path: Path) -> None:
    folder = forged(
        saved(home, "tip_adapter"), tmp_path / "m",
        lambda held: held.update({"buffer.cache_values": held["buffer.cache_values"][1:].contiguous()}),
    )  # fmt: skip
    assert "of shape" in refused(folder, home)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda held: held.update({"trust.labels": held["trust.labels"] + 3}), "damaged"),
        (lambda held: held.update({"trust.width": held["trust.width"] * 0}), "damaged"),
        (lambda held: held.update({"trust.means": held["trust.means"][:, 1:].contiguous()}), "trust.means of shape"),
        (lambda held: held.pop("trust.scores"), "damaged"),
        (lambda held: held.update({"learned": held["learned"].float()}), "damaged"),
    ],
)
def test_what_is_kept_of_held_out_images_must_fit(
    home: Path, tmp_path: Path, change: Callable[[Tensors], object], sentence: str
) -> None:
    assert sentence in refused(forged(saved(home, "taskres"), tmp_path / "m", change), home)


HUGE = 10**400


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["options"].update(alpha=0),
        lambda record: record["options"].update(alpha=float("inf")),
        lambda record: record["options"].update(alpha=HUGE),
        lambda record: record["options"].update(alpha="0.5"),
        lambda record: record["options"].update(side="both"),
        lambda record: record["options"].update(side=["text"]),
        lambda record: record["options"].update(learnable_alpha=1),
        lambda record: record["classes"][0].update(names=[]),
        lambda record: record["classes"][0].update(names=["a", 1, "b"]),
        lambda record: record["classes"][0].update(names=["a", " ", "b"]),
        lambda record: record["classes"][0].update(templates=[]),
        lambda record: record["classes"][0].update(templates=["no place"]),
        lambda record: record["classes"][0].update(names=[str(number) for number in range(1000)]),
        lambda record: record.update(classes=record["classes"] * 2),
        lambda record: record.update(classes={"task": "x"}),
        lambda record: record.update(precision="float8"),
        lambda record: record.update(precision=16),
        lambda record: record.update(shots="many"),
        lambda record: record.update(seed=-1),
        lambda record: record.update(support_images=True),
        lambda record: record.update(support_images=2**70),
        lambda record: record.update(seconds=float("nan")),
        lambda record: record.update(versions=[]),
        lambda record: record.update(versions={"shotfit": 1}),
        lambda record: record.update(race=[1]),
        lambda record: record.update(choice={"tried": [{}]}),
        lambda record: record.update(trust=[]),
        lambda record: record["trust"].update(temperature=0.0),
        lambda record: record["trust"].update(temperature=float("inf")),
        lambda record: record["trust"].update(plain_temperature="1"),
        lambda record: record.update(fell_back=0),
        lambda record: record.update(scores=3),
    ],
)
def test_record_with_a_field_that_no_fit_writes_is_refused(
    home: Path, tmp_path: Path, change: Callable[[Record], object]
) -> None:
    refused(forged(saved(home, "taskres"), tmp_path / "m", record=change), home)


@pytest.mark.parametrize(
    "members",
    [
        "", "{}", "[]", "[1]", "[" * 5000, '[{"method": "taskres"}]',
        '[{"method": "taskres", "options": {"alpha": -1}, "temperature": 1}]',
        '[{"method": "taskres", "options": {}, "temperature": 0}]',
        '[{"method": "taskres", "options": {}, "temperature": NaN}]',
        '[{"method": "evil.py:Evil", "options": {}, "temperature": 1}]',
        '[{"method": "ensemble", "options": {"members": "[]"}, "temperature": 1}]',
        json.dumps([{"method": "taskres", "options": {}, "temperature": 1}] * 1000),
        json.dumps([{"method": "coop", "options": {"length": 10**9}, "temperature": 1}] * 2),
    ],
)  # fmt: skip
def test_members_of_an_ensemble_are_checked_too(home: Path, tmp_path: Path, members: str) -> None:
    change = lambda record: record["options"].update(members=members)  # noqa: E731
    refused(forged(saved(home, "ensemble"), tmp_path / "m", record=change), home)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("coop", {"length": 10**9}),
        ("mma", {"dim": 10**12}),
        ("mma", {"start": 1, "end": 10**9}),
        ("apex", {"visual_tokens": 10**9}),
        ("apex", {"rank": 10**9, "adapter": "bottleneck"}),
        ("softcpt", {"length": 10**12}),
        ("clip_adapter", {"reduction": 10**9}),
    ],
)
def test_sizes_that_only_the_record_has_take_no_memory(
    home: Path, tmp_path: Path, method: str, options: dict[str, object]
) -> None:
    change = lambda record: record["options"].update(options)  # noqa: E731
    refused(forged(saved(home, method), tmp_path / "m", record=change), home)


def test_huge_header_is_refused(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(saved(home, "taskres"), folder)
    header = json.dumps({"__metadata__": {"format": "shotfit"}}).encode()
    header += b" " * (HEADER_BYTES + 8 - len(header))
    (folder / "adapter.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "is damaged or cut off" in refused(folder, home)


def test_method_that_declares_nothing_opens_and_takes_no_name_of_its_own(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from shotfit.methods.taskres import TaskRes\nclass Mine(TaskRes):\n    name = 'mine'\n"
        "    def declared(self):\n        return None\n"
    )
    named = f"{file}:Mine"
    source = fit(home / "photos", named, epochs=1, recipe="paper", check=False, backbone=backbone(home),
                 store=MemoryStore()).save(tmp_path / "source")  # fmt: skip
    assert Model.open(source, backbone(home), method=named).class_names
    for number, name in enumerate(("parameter.forward", "buffer.a.b", "other", "baked")):
        folder = forged(source, tmp_path / str(number), lambda held, name=name: held.update({name: torch.zeros(1)}))  # type: ignore[misc]
        assert "has" in refused(folder, home, named)


# What a record and a card tell of the machine


def test_folder_tells_nothing_of_the_machine_and_opens_from_where_it_lies(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "code" / "mine.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("from shotfit.methods.zero_shot import ZeroShot\nclass Mine(ZeroShot):\n    name = 'mine'\n")
    model = fit(home / "photos", f"{file}:Mine", check=False, backbone=str(home / "backbone"), store=MemoryStore())
    near, far = model.save(home / "deep" / "near"), tmp_path / "far"
    monkeypatch.setenv("HOME", str(home))  # the model leaves the folder of its user
    model.save(far)
    for folder in (near, far):
        text = (folder / "adapter.json").read_text() + (folder / "README.md").read_text()
        assert str(home) not in text and str(tmp_path) not in text
    record = json.loads((near / "adapter.json").read_text())
    assert record["backbone"]["name"] == "../../backbone" and record["found_at"] == "../../code/mine.py:Mine"
    record = json.loads((far / "adapter.json").read_text())
    assert record["backbone"]["name"] == "./backbone" and record["found_at"] == "./mine.py:Mine"
    monkeypatch.chdir(tmp_path)
    opened = Model.open(near, method=f"{file}:Mine", trust_backbone=True)
    assert opened.frozen.backbone.name == str(home / "backbone")


def test_same_fit_has_the_same_bytes_in_two_processes(home: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from shotfit.fitting.fit import fit; from shotfit.engine.store import MemoryStore\n"
        "fit(sys.argv[1], 'taskres', shots=3, epochs=1, recipe='paper', keep=True, backbone=sys.argv[2],"
        " store=MemoryStore()).save(sys.argv[3])"
    )
    for name in ("one", "two"):
        words = [sys.executable, "-c", program, *map(str, (home / "photos", home / "backbone", tmp_path / name))]
        subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": str(len(name) + ord(name[0]))})
    one, two = ((tmp_path / name / "adapter.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    with (tmp_path / "one" / "adapter.safetensors").open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        assert next(iter(json.loads(file.read(size)))) == "__metadata__"


# The command


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_verify_says_what_was_checked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(home, "taskres")
    code, out, err = run(capsys, "verify", folder, "--backbone", home / "backbone")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[:-1]] == [
        [name, "ok"] for name in ("files", "card", "record", "weights", "method", "backbone", "tensors")
    ]
    assert out.splitlines()[-1] == f"{folder}: nothing wrong in 7 checks"


def test_verify_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(home, "taskres")
    code, out, err = run(capsys, "verify", folder, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["model"]) == (0, True, str(folder)) and "nothing wrong" in err
    outcomes = {check["name"]: check["outcome"] for check in found["checks"]}
    assert (outcomes["weights"], outcomes["tensors"]) == ("ok", "not checked")


def test_verify_of_the_default_backbone_needs_no_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "fit", "--classes", "cat,dog", "--out", tmp_path / "m")[0] == 0
    code, out, _ = run(capsys, "verify", tmp_path / "m")
    assert code == 0 and "backbone  ok           mini-6, fingerprint" in out and "nothing wrong in 7 checks" in out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "x.pkl").write_bytes(pickle.dumps(1)), "files     wrong        x.pkl may be pickled"),
        (lambda folder: (folder / "a").write_bytes(pickle.dumps(1)), "files     wrong        a may be pickled"),
        (lambda folder: (folder / "notes").write_text("x"), "files     wrong        notes is none of a model's files"),
        (
            lambda folder: [(folder / name).touch() for name in ("a", "b")],
            "files     wrong        a, b are none of a model's files",
        ),
        (lambda folder: (folder / "README.md").unlink(), "card      wrong"),
        (lambda folder: (folder / "README.md").write_text("---\nlicense: mit\n"), "card      wrong"),
        (lambda folder: (folder / "adapter.json").write_text("{"), "record    wrong"),
        (lambda folder: (folder / "adapter.json").unlink(), "record    wrong"),
        (lambda folder: (folder / "adapter.safetensors").unlink(), "weights   wrong"),
        (lambda folder: (folder / "adapter.safetensors").write_bytes(b"no"), "weights   wrong"),
    ],
)
def test_verify_of_a_spoiled_folder_exits_with_3(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], said: str
) -> None:
    shutil.copytree(saved(home, "taskres"), tmp_path / "m")
    spoil(tmp_path / "m")
    code, out, _ = run(capsys, "verify", tmp_path / "m", "--backbone", home / "backbone")
    assert code == 3 and said in out and "1 wrong in" in out


def test_verify_finds_forged_tensors_and_another_backbone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = forged(saved(home, "taskres"), tmp_path / "m", lambda held: held.update({"x": torch.zeros(1)}))
    code, out, _ = run(capsys, "verify", folder, "--backbone", home / "backbone")
    assert code == 3 and "tensors   wrong" in out and "has no place for x" in out
    code, out, _ = run(capsys, "verify", saved(home, "taskres"), "--backbone", "mini")
    assert code == 3 and "backbone  wrong        mini-6 has fingerprint" in out


def test_verify_runs_no_code_of_the_model(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    change = lambda record: record.update(found_at=f"{tmp_path / 'evil.py'}:Evil")  # noqa: E731
    folder = forged(saved(home, "taskres"), tmp_path / "m", record=change)
    code, out, _ = run(capsys, "verify", folder, "--backbone", home / "backbone")
    assert code == 0 and "method    not checked" in out


def test_verify_of_what_is_no_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", tmp_path / "gone")
    said = f"error: {tmp_path / 'gone'} is not a folder: name one that `shotfit fit` wrote.\n"
    assert (code, out, err) == (3, "", said)
