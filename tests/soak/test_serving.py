"""The prediction server under mixed load, for as long as SHOTFIT_SOAK_SECONDS says (`make soak`: twenty minutes).

Sixteen clients ask with one to four pictures; one request in twenty is broken, huge or slow. Every answer is the
library's, every request is answered, and after a warm-up the server's memory stays where it is.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import shotfit
from shotfit.engine.store import NoStore
from shotfit.fitting.asked import Asked
from shotfit.fitting.predict import as_object
from tests.pictures import bomb
from tests.serving.conftest import process
from tests.serving.test_bodies import BOUNDARY, form, part

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parent.parent.parent
SECONDS = float(os.environ.get("SHOTFIT_SOAK_SECONDS", "1200"))
CLIENTS = 16
ODD = 0.05  # the share of broken, huge and slow requests
WARM_UP = 0.2  # of the time; also the share at the end that is compared with what follows it
CLOSE = 2e-5  # probabilities may differ by their last digits, as batches differ
FLAT = 0.05
TYPE = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


@dataclass
class Told:
    """What all clients saw."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """Pictures by name, and what the library says of each."""

    contents: dict[str, bytes]
    answers: dict[str, dict[str, Any]]
    large: bytes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak") / "model"
    shotfit.fit(ROOT / "examples" / "clipart", method="linear_probe", keep=True).save(folder)
    return folder


@pytest.fixture(scope="module")
def known(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Known:
    paths = sorted((ROOT / "examples" / "clipart").glob("*/*.png"))
    contents = {path.name: path.read_bytes() for path in paths}
    contents |= {"text.jpg": b"no picture", "empty.png": b"", "half.png": paths[0].read_bytes()[:700]}
    opened = shotfit.load(model, store=NoStore(), precision="float32")
    asked = Asked(0.9, unknown=True)
    answers = {}
    for name, content in contents.items():
        (found,) = opened.predict([content], top=3, keep_broken=True, asked=asked)
        answers[name] = as_object(found) | {"image": name}
        if found.error:
            answers[name]["error"] = found.error.replace("image 0", name)
    large = bomb(tmp_path_factory.mktemp("large") / "bomb.png").read_bytes()
    return Known(contents, answers, large)


def test_mixed_load_is_answered_as_the_library_answers(
    model: Path, known: Known, capsys: pytest.CaptureFixture[str]
) -> None:
    told, memory = Told(), list[tuple[float, float]]()
    with process(model, "--precision", "float32", "--max-body", "2MB") as (run, address):
        port = int(address.rpartition(":")[2])
        until = time.monotonic() + SECONDS
        clients = [threading.Thread(target=load, args=(port, until, known, told, seed)) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            memory.append((until - time.monotonic(), resident(run.pid)))
            time.sleep(0.5)
        counts = metrics(port)
        run.send_signal(signal.SIGTERM)
        assert run.stdout is not None
        said, code = run.stdout.read(), run.wait(60)
    assert told.wrong == []
    served = sum(told.outcomes.values())
    assert (code, f"ended: {served:,} requests answered" in said) == (0, True), said
    assert counts["shotfit_waiting_pictures"] == counts["shotfit_held_bytes"] == counts["shotfit_open_requests"] == 0
    after = [size for left, size in memory if left < SECONDS * (1 - WARM_UP)]
    share = max(1, int(len(after) * WARM_UP))
    first, last = (sum(part) / len(part) for part in (after[:share], after[-share:]))
    ordered = sorted(told.seconds)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    with capsys.disabled():
        print(
            f"\nsoak: {SECONDS:.0f} s, {served:,} requests {dict(told.outcomes)}, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
            f"memory {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB ({100 * (last / first - 1):+.1f} %)"
        )
    assert last < first * (1 + FLAT)


def load(port: int, until: float, known: Known, told: Told, seed: int) -> None:
    """One client. It opens its connection anew after an answer that closes it."""
    draw, line = random.Random(seed), http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < until:
        kind = draw.choice(["broken", "huge", "slow"]) if draw.random() < ODD else "well"
        try:
            begun = time.perf_counter()
            outcome = asked(line, kind, known, draw)
            if kind == "well":
                told.seconds.append(time.perf_counter() - begun)
            told.outcomes[outcome] += 1
        except Exception as error:
            told.wrong.append((kind, repr(error)))
            line.close()
    line.close()


def asked(line: http.client.HTTPConnection, kind: str, known: Known, draw: random.Random) -> str:
    """Send one request and compare its answer; gives what became of it."""
    if kind == "huge":
        if draw.random() < 0.5:
            status, answer = answered(line, [form(part(b"files", known.large))])
            assert status == 413 and "pixels" in answer["detail"], answer
            return "too many pixels"
        status, answer = answered(line, [form(part(b"files", b"x" * 3_000_000))])
        assert status == 413 and "at most" in answer["detail"], answer
        return "too many bytes"
    if kind == "broken" and draw.random() < 0.5:
        status, answer = answered(line, [form(part(b"files", b"x"))[: -draw.randrange(5, 40)]])
        assert status == 400 and "boundary" in answer["detail"], answer
        return "no form"
    odd = ["text.jpg", "empty.png", "half.png"]
    names = draw.sample([*known.contents][:-3], draw.randrange(1, 5)) + (odd if kind == "broken" else [])
    parts = [part(b"files", known.contents[name], b'; filename="%s"' % name.encode()) for name in names]
    body = form(*parts, part(b"top", b"3"), part(b"coverage", b"0.9"), part(b"unknown", b"true"))
    cuts = range(0, len(body), 1 + len(body) // 10) if kind == "slow" else [0]
    blocks = [body[at : at + (1 + len(body) // 10 if kind == "slow" else len(body))] for at in cuts]
    status, answer = answered(line, blocks, pause=0.2 if kind == "slow" else 0)
    assert status == 200, answer
    for name, found in zip(names, answer["predictions"], strict=True):
        same(found, known.answers[name])
    return kind


def answered(line: http.client.HTTPConnection, blocks: list[bytes], pause: float = 0) -> tuple[int, dict[str, Any]]:
    def coming() -> Iterator[bytes]:
        for block in blocks:
            yield block
            time.sleep(pause)

    length = {"content-length": str(sum(map(len, blocks)))}
    line.request("POST", "/v1/predict", coming(), TYPE | length)
    answer = line.getresponse()
    return answer.status, json.loads(answer.read())


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same but for the last digits; classes that are as probable as each other may change places."""
    assert found.keys() == expected.keys(), found
    assert {key: found[key] for key in found if key != "predictions"} == {
        key: expected[key] for key in expected if key != "predictions"
    }, found
    for one, other in zip(found.get("predictions", []), expected.get("predictions", []), strict=True):
        assert abs(one["probability"] - other["probability"]) < CLOSE, (found, expected)
        near = [own["label"] for own in expected["predictions"] if abs(own["probability"] - one["probability"]) < CLOSE]
        assert one["label"] in near, (found, expected)


def metrics(port: int) -> dict[str, float]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/metrics")
    text = line.getresponse().read().decode()
    line.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def resident(process_id: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
