"""The same answers from as many machines as Ray has: Ray Data reads, holds back, retries and writes; an actor of ours
holds the network.

Each step is a function of its input alone, so that Ray may do it again elsewhere where a machine is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..inference.pictures import Encoded
from . import results
from .sources import Piece

TOGETHER = 64
"""Pictures that an actor is given at a time."""

LOCAL = "local"


def check() -> None:
    """Raise `UserError` if Ray is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise UserError(
            "--ray needs the package ray: pip install 'convforge[ray]'; without it this machine answers alone."
        ) from None


class _Actor:
    """The network, in a process that Ray has started."""

    def __init__(self, model: str, said: dict[str, Any], threads: int, top: int) -> None:
        from ..models.load import load

        self._network = load(model, threads=threads, **said)
        self._top = top

    def __call__(self, batch: Any) -> Any:
        rows = batch.to_pylist()
        given = [Encoded(row["image"], _Content(row["bytes"], row["error"])) for row in rows]
        answers = list(self._network.predict_stream(given, self._top))
        return results.as_table(answers, self._top)


class _Content:
    """A file's bytes, or why there are none."""

    def __init__(self, data: bytes | None, error: str | None) -> None:
        self._data, self._error = data, error

    def __call__(self) -> bytes:
        if self._data is None:
            raise UserError(self._error or "there is nothing in it.")
        return self._data


def write(
    model: Path, said: dict[str, Any], work: list[Piece], out: Path, top: int, threads: int, address: str
) -> None:
    """Answer what is not answered yet, on the cluster at the address, or on one that is begun here ('local').

    Args:
        model: as `convforge.load` takes it, from a place that all machines see; so is `out`.
        said: what else `load` is told: classes, mean, std, input_shape.
        threads: of each actor; Ray starts as many actors as it has cores for.

    Raises:
        UserError: if there is no such cluster, or a step failed as often as Ray tries.
    """
    check()
    import ray
    from ray.exceptions import RayError

    ours = not ray.is_initialized()
    try:
        if ours:
            where: dict[str, Any] = {} if address == LOCAL else {"address": address}
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", **where)
    except (ConnectionError, RuntimeError, ValueError) as reason:
        raise UserError(f"there is no Ray cluster at {address} ({str(reason)[:200]}): see ray status.") from reason
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        done = ray.put(results.answered(out))

        def read(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
            piece, finished = Piece(tuple(row["places"])), ray.get(done)
            for picture in results.pictures([piece], finished):
                try:
                    found: dict[str, Any] = {"bytes": picture.read(), "error": None}
                except (OSError, UserError) as reason:
                    sentence = f"{picture.name} cannot be read ({reason}): check the name and its permissions."
                    found = {"bytes": None, "error": str(reason) if isinstance(reason, UserError) else sentence}
                yield {"image": picture.name, **found}

        # A row a piece, so that small inputs, too, are read by several processes.
        rows = ray.data.from_items([{"places": list(piece.places)} for piece in work])
        answers = rows.flat_map(read).map_batches(
            _Actor,
            fn_constructor_args=(str(model), said, threads, top),
            batch_size=TOGETHER,
            batch_format="pyarrow",
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, cores // threads)),
        )
        answers.write_parquet(str(out.absolute()), min_rows_per_file=results.ROWS)
    except RayError as reason:
        words = str(reason.__cause__ or reason).strip().splitlines()
        raise UserError(f"Ray could not finish ({words[-1][:300] if words else reason!r}).") from reason
    finally:
        if ours:
            ray.shutdown()
