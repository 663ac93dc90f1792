"""A cluster of Ray: the cores of this machine, or one that is running already.

    with Cluster() as cluster:                       # a cluster of this process, which ends with it
    with Cluster("10.0.0.1:6379") as cluster:        # one that `ray start` or Kubernetes made; it stays

No usage statistics are sent, there is no dashboard, and nothing of Ray's is printed: its logs are files, in the folder
that Ray keeps for them. Workers run what this machine installed under the same paths, so the folders of pictures, of
the model and of the results are shared.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from shotfit.errors import ShotfitError, UsageError
from shotfit.printing import cut

if TYPE_CHECKING:
    from shotfit.evaluation.jobs import Engine as Runs
    from shotfit.fitting.parts import Engine

__all__ = ["Cluster", "library"]

SECONDS = 5.0  # until a machine that does not answer is told
STARTING = 30.0  # seconds that a cluster has to say that it is well
OBJECTS = 2**32  # bytes of the object store of a cluster of our own at most, of which it takes what it needs
SHARE = 0.3  # of memory, that it has at most

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what is the default soon, and warned of until then
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else Ray Data's way of starting workers is warned of on the terminal
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # a worker that died is told in our words, if anybody needs to know
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers run the Python of this process
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else what Ray Data still runs begins another cluster after ours has ended
}


def library() -> Any:
    """Ray, with Ray Data and without usage statistics.

    Raises UsageError, with what to install, where it is missing.
    """
    os.environ.update(_SETTINGS)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'shotfit[ray]'.") from error
    return ray


_JOIN = "import logging, ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)"


class Cluster:
    """A cluster of Ray while a `with` block lasts.

    address: HOST:PORT of one that is running, or auto for that of this machine; None: a new one of this machine with
    as many cores as PyTorch has threads (`OMP_NUM_THREADS`). Where this process has joined a cluster before, that one
    is taken and left as it is.

    Raises UsageError where Ray is missing or an address is none, and ShotfitError where no cluster answers.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = None if address is None else _checked(address)
        self.ray = library()
        self._end = ExitStack()

    def __enter__(self) -> Cluster:
        self._end.enter_context(_quiet())
        if not self.ray.is_initialized():
            try:
                self._begin()
            except BaseException:
                self._end.close()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.close()

    def engine(self) -> Engine:
        """What `predict_parts` and `embed_parts` take as `engine`."""
        from shotfit.distributed.engine import RayParts

        return RayParts(self)

    def runs(self) -> Runs:
        """What `compare` takes as `engine`."""
        from shotfit.distributed.side_by_side import RayRuns

        return RayRuns(self)

    @property
    def cores(self) -> int:
        """Cores that it has now, at least one."""
        return max(1, int(self.resources().get("CPU", 1)))

    def resources(self) -> Mapping[str, float]:
        """What the cluster has now, by Ray's names: CPU, GPU."""
        found: Mapping[str, float] = self.ray.cluster_resources()
        return found

    def _begin(self) -> None:
        more: dict[str, Any] = {"address": self.address}
        if self.address is None:
            more = {"address": "local", "num_cpus": torch.get_num_threads(), "include_dashboard": False}
            more["object_store_memory"] = min(OBJECTS, int(SHARE * _memory()))
            self._end.enter_context(_own_token())
        else:
            _check_health(self.address)
        self._end.callback(_wait_for_ray_data)
        self._end.callback(self.ray.shutdown)
        raised = (RuntimeError, ValueError, OSError, self.ray.exceptions.RayError)
        try:
            with _mute(), _own_signals():
                self.ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **more)
        except raised as error:
            what = "Ray cannot be started here" if self.address is None else f"The cluster at {self.address} is no use"
            raise ShotfitError(f"{what}: {_line(error)}") from error


def _checked(address: str) -> str:
    """HOST:PORT, or auto. Raises UsageError."""
    host, colon, port = address.rpartition(":")
    known = address == "auto" or (host and colon and port.isdigit() and 0 < int(port[:6]) < 2**16)
    if not known or "://" in address or not address.isprintable() or any(letter.isspace() for letter in address):
        raise UsageError(
            f"--address is {cut(address, 80)!r}; expected HOST:PORT of a Ray cluster that this machine belongs to, "
            "such as 10.0.0.1:6379, or auto."
        )
    return address


def _check_health(address: str) -> None:
    """Raises ShotfitError, within seconds, where no cluster answers."""
    none = f"No Ray cluster answers at {address}"
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
        except OSError as error:
            raise ShotfitError(
                f"{none} ({_line(error)}); start one with ray start --head, or leave --address out."
            ) from error
    try:  # in another process, since Ray waits for long for what listens and says nothing
        done = subprocess.run([sys.executable, "-c", _JOIN, address], capture_output=True, text=True, timeout=STARTING)
    except subprocess.TimeoutExpired as error:
        raise ShotfitError(f"{none}: what listens there says nothing in {STARTING:.0f} seconds.") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = said[-1].rstrip(".") if said else "it is not well"
        raise ShotfitError(f"{none} ({cut(why, 200)}).")


@cache
def _token() -> str:
    """The token of this process, whose clusters all have it: Ray asks for it once."""
    return secrets.token_hex(32)


@contextmanager
def _own_token() -> Iterator[None]:
    """Whoever reaches a port of the cluster that is started in the block needs a token that nobody else has."""
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ["RAY_AUTH_TOKEN"] = _token()  # else Ray writes one into the home, for all clusters
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_signals() -> Iterator[None]:
    """Signals mean what they meant before, once Ray has begun.

    Ray would end the process with SIGTERM, work half done. Ctrl-C waits until Ray is there to be ended: halfway it
    leaves its processes behind, or dies.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may ask for signals, and Ray does not
        yield
        return
    came = list[int]()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _mute() -> Iterator[None]:
    """What libraries in C write to standard error is lost: Ray's says there which level of logs it was told."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _wait_for_ray_data() -> None:
    """Wait for what of Ray Data outlived its cluster: it finds it gone, logs that, and ends."""
    ends = time.monotonic() + SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor-"):
            thread.join(max(0.0, ends - time.monotonic()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data prints nothing while the block lasts; what it says goes to its files alone."""
    logger = logging.getLogger("ray.data")
    before = [(handler, handler.level) for handler in logger.handlers if not hasattr(handler, "_filename")]
    for handler, _ in before:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # of parts there may be fewer
            warnings.filterwarnings("ignore", module=r"ray(\.|$)")  # Ray's advice to itself
            yield
    finally:
        for handler, level in before:
            handler.setLevel(level)


def _memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**33


def _line(error: BaseException) -> str:
    return cut(" ".join(str(error).split()) or type(error).__name__, 200)
