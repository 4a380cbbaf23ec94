"""The progress bar of every long job: title, amount done, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.unit}/s", style="progress.data.speed")


class _AmountColumn(ProgressColumn):
    """Completed / total. A small fractional total, such as the megapixels of a small picture, is shown with decimals."""

    def render(self, task: Task) -> Text:
        total = task.total
        digits = 0 if total is None or total >= 100 or float(total).is_integer() else 2
        return Text(f"{task.completed:.{digits}f}/{'?' if total is None else f'{total:.{digits}f}'}", style="progress.download")


@contextmanager
def progress_bar(title: str, total: float | None, unit: str, visible: bool = True) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on stderr. Yield a function that advances it by an amount in `unit`."""
    columns = [TextColumn("{task.description}"), BarColumn(), _AmountColumn(), _RateColumn(unit), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as bar:
        task = bar.add_task(title, total=total)
        yield lambda amount: bar.advance(task, amount)
