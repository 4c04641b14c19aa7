"""A run that several processes share, as torchrun starts them: which one this is, and what they tell each other.

torchrun, Slurm and Kubernetes' training operator say it in the environment (`RANK`, `WORLD_SIZE`, `MASTER_ADDR` …), and
PyTorch's gloo carries it from process to process. Each process is a rank, and has all of the run but for what only one
may do: the first rank writes, and tells the others what came of it. Numbers that decide anything are sums over all
ranks, so that all decide alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from time import sleep
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore

from ..errors import UserError

_T = TypeVar("_T")

_PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: one may read images, or write a report, while the others have nothing to do."""

_LEAVE_SECONDS = 0.1
"""For microseconds of work, on a machine whose cores may all be busy."""

_BEGUN = "convforge/run"
"""The key in torchrun's own store, which outlives the processes that it starts again, of the folder that they write."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    Args:
        rank: of this one, from 0.
        count: how many there are, on all machines.
        here: how many of them share this machine.

    >>> alone = Ranks()
    >>> alone.first, alone.sums(2.0, 3.0), alone.places(8).tolist()
    (True, [2.0, 3.0], [0, 1, 2, 3, 4, 5, 6, 7])
    >>> Ranks(rank=1, count=3).places(8).tolist()
    [2, 3, 4]
    """

    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def places(self, images: int) -> Tensor:
        """Which images of a batch are this rank's, int64: a stretch of them, as long as the others' but for one."""
        return torch.arange(images * self.rank // self.count, images * (self.rank + 1) // self.count)

    def every(self, images: int) -> Tensor:
        """Which of all images are this rank's to look at once, int64: each image is exactly one rank's."""
        return torch.arange(min(self.rank, images), images, self.count)

    def threads(self, wanted: int | None) -> int | None:
        """Of this process: its part of what is wanted for the machine; None leaves one process what torch takes."""
        if self.count == 1:
            return wanted
        return max(1, (wanted or _cores()) // self.here)

    # --- what they tell each other ------------------------------------------------------------------------------------

    def sums(self, *numbers: float) -> list[float]:
        """Of each number the sum over all ranks, the same to the last bit everywhere."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(number) for number in total]

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        return self.sums(float(here))[0] > 0

    def by_first(self, do: Callable[[], _T]) -> _T:
        """What the first rank gets from doing it, on all ranks; a `UserError` that it meets is raised on all."""
        if self.count == 1:
            return do()
        said: list[Any] = [None, None]
        failure: UserError | None = None
        if self.first:
            try:
                said[0] = do()
            except UserError as mistake:
                failure, said[1] = mistake, str(mistake)
        dist.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise failure or UserError(said[1])
        result: _T = said[0]
        return result

    def must_agree(self, value: str, sentence: str) -> None:
        """Raise a `UserError` with the sentence, on all ranks, unless all have the same value."""
        differs = self.by_first(lambda: value) != value
        if self.any(differs):
            raise UserError(sentence)

    def give(self, tensors: list[Tensor]) -> None:
        """Put the first rank's numbers into everybody's tensors."""
        if self.count > 1:
            with torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def average(self, tensors: list[Tensor]) -> None:
        """Put the mean over all ranks into everybody's tensors."""
        if self.count > 1 and tensors:
            with torch.no_grad():
                flat = torch.cat([tensor.flatten() for tensor in tensors])
                dist.all_reduce(flat)
                flat /= self.count
                means = torch.split(flat, [tensor.numel() for tensor in tensors])
                for tensor, mean in zip(tensors, means, strict=True):
                    tensor.copy_(mean.view_as(tensor))

    def learner(self, model: nn.Module) -> nn.Module:
        """The model such that a backward pass leaves the mean of all ranks' gradients; alone, the model itself.

        Of the parameters that learn now: after these have changed it takes another one."""
        if self.count == 1:
            return model
        parallel = nn.parallel.DistributedDataParallel
        # Batch norms' statistics are `average`d when they are needed, and not sent before each step.
        parallel._set_params_and_buffers_to_ignore_for_model(model, [name for name, _ in model.named_buffers()])  # type: ignore[no-untyped-call]
        return parallel(model)

    # --- a run that torchrun has started again ------------------------------------------------------------------------

    def begun(self) -> str | None:
        """The folder that the same torchrun's processes have begun before one of them was lost; None at first."""
        return self.by_first(_remembered) if self.count > 1 else None

    def remember(self, folder: str) -> None:
        """Note the folder for processes that are started after one of these was lost."""
        if self.count > 1 and self.first and (store := _torchruns_store()) is not None:
            store.set(_BEGUN, folder)


ALONE = Ranks()
"""One process."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that the environment speaks of, connected; one process where it speaks of none.

    Raises:
        UserError: if the environment makes no sense, or another rank goes away: this one can do nothing then, and
            torchrun begins all of them anew.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1" or "MASTER_ADDR" not in os.environ or dist.is_initialized():
        yield ALONE
        return
    try:
        rank, count = int(os.environ["RANK"]), int(world)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    except (KeyError, ValueError) as reason:
        raise UserError(f"WORLD_SIZE is {world!r} in the environment, but {reason}: start it with torchrun.") from None
    with _lost_ranks_said(rank):
        store = _torchruns_store()
        if store is None:
            dist.init_process_group("gloo", rank=rank, world_size=count, timeout=_PATIENCE)
        else:
            # torchrun's store still has the addresses of processes that are gone, for which new ones would take them.
            attempt = f"convforge/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {count}"
            meeting = PrefixStore(attempt, store)
            meeting.set_timeout(_PATIENCE)
            dist.init_process_group("gloo", store=meeting, rank=rank, world_size=count, timeout=_PATIENCE)
        try:
            yield Ranks(rank, count, here)
        finally:
            dist.destroy_process_group()
            # A thread of gloo's may still be about to let go of what the last call has left with it, and needs the
            # interpreter's lock for that. One that asks for it when the interpreter has ended is unwound through code
            # that may not be: the process aborts, and torchrun takes a finished run for a lost one.
            sleep(_LEAVE_SECONDS)


@contextmanager
def _lost_ranks_said(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as failure:
        # What gloo raises is told apart by its words only.
        words = str(failure)
        if "finished reduction" in words:
            raise UserError(
                "the network has parameters that have no part in its answer, and several processes wait for their "
                "gradients: take these out, or let one process learn."
            ) from failure
        if not any(word in words for word in ("gloo", "Connection", "peer", "store", "Socket")):
            raise
        raise UserError(
            f"rank {rank} has lost another process of this run ({words.strip().splitlines()[-1][:200]}); torchrun "
            "--max-restarts 3 brings all back from the last checkpoint, as --resume does."
        ) from failure


def _torchruns_store() -> TCPStore | None:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None  # the store is the first rank's own, and goes with it
    with suppress(RuntimeError, KeyError, ValueError):
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(*place, is_master=False, timeout=timedelta(seconds=30))
    return None


def _remembered() -> str | None:
    store = _torchruns_store()
    return store.get(_BEGUN).decode() if store is not None and store.check([_BEGUN]) else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
