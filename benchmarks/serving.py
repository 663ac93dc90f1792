"""How many pictures a second the server answers, against `shotfit predict` on one core.

The server is held to one core and its clients to another, where there are two. Both processes are timed after their
start: the server behind a warm-up, `predict` from the end of its first batch to that of its last.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Line, Target, line
from benchmarks.names import CALTECH101
from benchmarks.prediction import jpegs, zero_shot_model
from benchmarks.sizes import Size
from shotfit.checkpoints.weights import load_backbone
from shotfit.data.tasks import ClassList
from shotfit.fitting.batches import BATCH

__all__ = ["serve_rate"]

CLIENTS = 16
SIZE = (300, 200)  # a picture of Caltech101
BOUNDARY = "a-boundary"


def serve_rate(size: Size, repeats: int) -> Line:
    """Pictures a second of `shotfit serve` on one core, asked by 16 clients, against `shotfit predict` on one core."""
    count = 1024 if size.layers > 3 else 8
    backbone = load_backbone("mini")
    classes = size.classes_of(ClassList("caltech101", CALTECH101, ("a photo of a {}.",)))
    served, predicted = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = zero_shot_model(backbone, classes).save(folder / "model")
        (folder / "pictures").mkdir()
        pictures = jpegs(folder / "pictures", count + BATCH, SIZE, count + BATCH)
        for _ in range(repeats):
            served.append(_served(model, pictures[:count]))
            predicted.append(_predicted(model, folder))
    best, reference = max(served), max(predicted)
    sizes = {"backbone": "mini", "classes": len(classes.names), "images": count, "clients": CLIENTS}
    more = {"images_per_second": best, "predict_images_per_second": reference}
    return line("serve_rate", best / reference, Target(0.85, "of predict's rate"), backbone.dtype, sizes, **more)


def _served(model: Path, pictures: Sequence[Path]) -> float:
    contents = [path.read_bytes() for path in pictures]
    with _started("serve", model, "--port", 0) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+) ", process.stdout.readline())
        assert found, "the server did not start"
        port = int(found[1])
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(before)})
        try:
            _asked(port, contents[: 2 * CLIENTS])
            begun = time.perf_counter()
            _asked(port, contents)
            taken = time.perf_counter() - begun
        finally:
            os.sched_setaffinity(0, before)
        process.send_signal(signal.SIGTERM)
        process.wait()
    return len(contents) / taken


def _asked(port: int, contents: Sequence[bytes]) -> None:
    """Each client sends its share, one picture after the other."""
    failed = list[bytes]()

    def ask(own: Sequence[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        begin = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'.encode()
        for content in own:
            body = begin + content + f"\r\n--{BOUNDARY}--\r\n".encode()
            connection.request(
                "POST", "/v1/predict", body, {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
            )
            answer = connection.getresponse()
            found = answer.read()
            failed.extend([found] if answer.status != 200 else [])
        connection.close()

    threads = [threading.Thread(target=ask, args=(contents[number::CLIENTS],)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]


def _predicted(model: Path, folder: Path) -> float:
    with tempfile.TemporaryDirectory() as cache, _started("predict", model, folder / "pictures", cache=cache) as run:
        assert run.stdout is not None
        times = [time.perf_counter() for _ in run.stdout]
        run.wait()
    return (len(times) - BATCH) / (times[-1] - times[BATCH - 1])


@contextmanager
def _started(*words: object, cache: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A command on the first core that this process may use, with one thread."""
    core = min(os.sched_getaffinity(0))
    program = (
        f"import os, sys; os.sched_setaffinity(0, {{{core}}}); from shotfit.commands.cli import main; sys.exit(main())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if cache is None else {"SHOTFIT_CACHE": cache})
    command = [sys.executable, "-c", program, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
