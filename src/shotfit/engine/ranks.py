"""One training by several processes, as torchrun starts them: who takes which share, and what they tell one another.

    with joined() as first:                 # first: whether this process saves, prints and evaluates
        fit(...)                            # the same call in every process

Every process runs the same program on the same data with the same seeds. A training step alone is shared out, so that
what is chosen, drawn and saved is that of one process. In it process r takes a share of the batch's images, and of the
prompts that run through the text tower; the text features are gathered. With w_r the share of the images,

    loss = sum over r of w_r * loss_r         each process's own, of its images, with the text features of all
    gradient of a parameter = sum over r of what w_r * loss_r gives it in process r

By the chain rule the backward pass of the gathering adds up, over the processes, the gradients of the rows that a
process has made. No method needs to know of it.

Without torchrun, or within one process, all of this does nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shotfit.engine.store import Compute, Kind, MemoryStore, Store
from shotfit.errors import ShotfitError, UsageError

__all__ = [
    "agree", "agreed_rows", "gathered", "is_asked", "is_first", "joined", "may_tell", "mean", "share", "splits",
    "stepping", "sum_gradients", "weight", "world",
]  # fmt: skip

PATIENCE = timedelta(hours=12)  # for another process, which may be evaluating; one that has ended is noticed at once
CULPRIT = 3.0  # seconds in which the process that failed first may say why
T = TypeVar("T")
_splitting = False


def is_asked() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "TORCHELASTIC_RUN_ID" in os.environ


def world() -> int:
    """How many processes train together; 1 outside `joined`."""
    return torch.distributed.get_world_size() if _is_joined() else 1


def _rank() -> int:
    return torch.distributed.get_rank() if _is_joined() else 0


def _is_joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_first() -> bool:
    """Whether this is the process that saves, prints and evaluates; true for one alone."""
    return _rank() == 0


@contextmanager
def joined(device: str = "auto") -> Iterator[bool]:
    """Train together with the other processes that torchrun started; gives whether this is the first of them.

    The others print nothing within. device: as in `fit`; each process takes a GPU of its own where it is not cpu.

    Raises UsageError for more processes than GPUs, and ShotfitError where another process ends before the work is done.
    """
    if not is_asked() or _is_joined():
        yield is_first()
        return
    on_gpus = torch.cuda.is_available() and device != "cpu"
    if on_gpus:
        _take_gpu(device)
    with _peers():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    try:
        with _peers(), _silent(not is_first()):
            yield is_first()
            torch.distributed.barrier()  # who is done early would be missed by the others
    finally:
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()


def _take_gpu(device: str) -> None:
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count()
    if ":" in device:
        raise UsageError(f"Each process of torchrun takes a GPU of its own: use --device cuda in place of {device}.")
    if here > gpus:
        raise UsageError(
            f"torchrun started {here} processes on a machine with {gpus} GPU{'' if gpus == 1 else 's'}: start one for "
            "each GPU (--nproc-per-node), or use --device cpu."
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))


@contextmanager
def _silent(quiet: bool) -> Iterator[None]:
    if not quiet:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def _peers() -> Iterator[None]:
    """A connection that breaks off means that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "onnection" in str(error):
            time.sleep(CULPRIT)
            raise ShotfitError(
                "another process of this training ended before it was done: see what it said, or whether memory ran "
                "out, and start all of them again."
            ) from None
        raise


def may_tell() -> bool:
    """Whether this process is the one that says why all of them end: the first that asks, by torchrun's own store."""
    if not is_asked():
        return True
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = torch.distributed.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))  # type: ignore[attr-defined]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"shotfit told {attempt}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):  # torchrun is gone too
        return os.environ.get("RANK") == "0"


@contextmanager
def stepping() -> Iterator[None]:
    """A training step, in which towers share their work out."""
    global _splitting
    before, _splitting = _splitting, world() > 1
    try:
        yield
    finally:
        _splitting = before


def splits(rows: int) -> bool:
    """Whether so many rows of a tower are shared out: in a step, and not if a process would have none."""
    return _splitting and torch.is_grad_enabled() and rows >= world()


def share(count: int) -> slice:
    """The rows of this process, of so many: neighbours, as many as others take or one more or less.

    Of fewer rows than processes, some take one that another has too, with a weight of 0; see `weight`.
    """
    return _shares(count)[_rank()]


def weight(count: int) -> float:
    """The part of a batch of so many images that this process's loss stands for."""
    mine, processes = share(count), world()
    if count < processes and _rank() >= count:
        return 0.0
    return (mine.stop - mine.start) / count


def _shares(count: int) -> list[slice]:
    processes = world()
    if count < processes:
        return [slice(min(rank, count - 1), min(rank, count - 1) + 1) for rank in range(processes)]
    ends = [count * (rank + 1) // processes for rank in range(processes)]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def gathered(own: Tensor, count: int) -> Tensor:
    """The rows of all processes, [count, ...], of those of this one, which are its `share`; gradients flow back."""
    return _Gathered.apply(own, count)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """Rows go to everyone; their gradients, of which every process has a part, are added up where they came from."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, count: int) -> Tensor:
        ctx.count = count
        shares = _shares(count)
        longest = max(one.stop - one.start for one in shares)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in shares]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[: one.stop - one.start] for part, one in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total[share(ctx.count)], None


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Add up the parameters' gradients over the processes, in place; gives the sum of the losses, []."""
    if world() == 1:
        return loss
    given = [one.grad for one in parameters if one.grad is not None]
    alike: dict[torch.dtype, list[Tensor]] = {}
    for one in (*given, loss.reshape(1)):
        alike.setdefault(one.dtype, []).append(one)
    for tensors in alike.values():
        flat = torch.cat([one.flatten() for one in tensors])
        torch.distributed.all_reduce(flat)
        for one, total in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
            one.copy_(total.view_as(one))
    return loss


@torch.no_grad()
def mean(own: Tensor) -> Tensor:
    """The mean over the processes, [...]: of a gradient that each has a part of, by a loss that each has whole."""
    if world() == 1:
        return own
    total = own.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total / world()


@torch.no_grad()
def agree(tensors: Sequence[Tensor]) -> None:
    """Have everywhere the numbers of the first process, in place: processors of another kind may differ in a bit."""
    if world() > 1:
        for one in tensors:
            torch.distributed.broadcast(one, 0)


def agreed_rows(store: Store | MemoryStore, kind: Kind, keys: Sequence[str], compute: Compute) -> Tensor:
    """As `Store.rows` for rows that all processes compute together: the first one's store decides which are missing."""
    if world() == 1:
        return store.rows(kind, keys, compute, "")
    missing = _of_first(store.missing(kind, keys) if is_first() else None)
    computed = [chunk.detach().cpu() for chunk in (compute(missing) if missing else ())]
    found: Tensor | None = None
    if is_first():
        rows = dict(zip((keys[place] for place in missing), (row for chunk in computed for row in chunk), strict=True))

        def known(places: list[int]) -> Iterator[Tensor]:
            for place in places:
                yield rows[keys[place]][None]

        found = store.rows(kind, keys, known, "")
    return _of_first(found)


def _of_first(value: T | None) -> T:
    """What the first process has."""
    box = [value]
    torch.distributed.broadcast_object_list(box, 0)
    return box[0]  # type: ignore[return-value]
