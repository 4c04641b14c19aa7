"""What a run shows while it runs: a bar on a terminal, one plain line an epoch where the output goes to a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn, track
from rich.progress import Progress as Bar

from .state import Progress
from .streamed import memory


class Display:
    """A `Watcher` that prints; `console` decides whether a bar makes sense."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.says_memory = False
        """Whether images are streamed, so that memory is what one wants to see bounded."""
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def say(self, sentence: str) -> None:
        """Print a sentence as it is, whatever brackets a file's name in it has."""
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Iterable[Any], what: str, count: int) -> Iterable[Any]:
        """Show how far reading is, on a terminal and where it takes long enough to be seen."""
        if not self.console.is_terminal or count < 500:
            return items
        return track(items, what, total=count, console=self.console, transient=True)

    @contextmanager
    def learning(self, steps: int) -> Iterator[None]:
        """Show the bar within the block."""
        if not self.console.is_terminal:
            yield
            return
        with Bar(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("accuracy {task.fields[accuracy]}"),
            TextColumn("{task.fields[rate]} images/s{task.fields[memory]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            expand=True,
        ) as bar:
            self._bar = bar
            self._task = bar.add_task("", total=steps, epoch="", loss="–", accuracy="–", rate="–", memory="")
            try:
                yield
            finally:
                self._bar = None

    def leave(self, sentence: str) -> None:
        """Print last words, with the terminal as it was before: the process ends at once."""
        if self._bar is not None:
            self._bar.stop()  # which shows the cursor again
        self.say(sentence)
        self.console.file.flush()

    def step(self, progress: Progress, steps: int) -> None:
        if self._bar is None or progress.seen == 0:
            return
        self._bar.update(
            self._task,
            completed=progress.step,
            epoch=f"epoch {len(progress.epochs) + 1}",
            loss=f"{progress.loss / progress.seen:.3f}",
            accuracy=f"{progress.right / progress.seen:.1%}",
            rate=f"{progress.seen / max(progress.seconds, 1e-9):,.0f}",
            memory=self._memory(),
        )

    def epoch(self, metrics: dict[str, float], epochs: int, best: bool) -> None:
        number = f"{metrics['epoch']:{len(str(epochs))}.0f}"
        self.say(
            f"epoch {number}/{epochs}   loss {metrics['train_loss']:.3f}   accuracy {metrics['train_accuracy']:6.1%}   "
            f"held out: loss {metrics['test_loss']:.3f}, accuracy {metrics['test_accuracy']:6.2%}   "
            f"{metrics['images_per_second']:,.0f} images/s{self._memory()}" + ("   best so far" if best else "")
        )

    def _memory(self) -> str:
        taken = memory() if self.says_memory else None
        return "" if taken is None else f", {taken / 1e9:.2f} GB of memory"
