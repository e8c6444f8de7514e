"""A progress bar in the terminal: loss, error and images per second. Elsewhere, one line for each epoch."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ruledsl.training.engine import Score
from ruledsl.training.loop import Epoch, Listener
from ruledsl.training.schedule import Clock

SMOOTHING = 0.05  # weight of a step in the running averages that the bar shows


class ProgressBar(Listener):
    """Shows a run on `console`; `epoch_lines` prints a line for each epoch above the bar."""

    def __init__(self, console: Console, epoch_lines: bool = True) -> None:
        self.console = console
        self.epoch_lines = epoch_lines
        self._bar: Progress | None = None

    def begin(self, title: str, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        """Start the bar."""
        self._epochs = epochs
        self._title = title
        self._loss = self._error = 0.0
        self._weight = 0.0
        self._images, self._since = 0, time.perf_counter()
        if self.epoch_lines:
            self.console.print(title, highlight=False, markup=False, soft_wrap=True)
        if done and self.epoch_lines:
            self.console.print(f"goes on after {done:,} of {epochs * steps_per_epoch:,} steps", highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task: TaskID = self._bar.add_task(
            self._label(0), total=epochs * steps_per_epoch, completed=done, numbers=""
        )
        if self.console.is_terminal:
            self._bar.start()

    def note(self, text: str) -> None:
        """Print it."""
        self.console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)

    def step(self, clock: Clock, score: Score | None) -> None:
        """Move the bar; the numbers are running averages over the last steps."""
        if clock.step % clock.steps_per_epoch == 0:
            self._images, self._since = 0, time.perf_counter()
        self._images += score.images if score else 0
        if self._bar is None or not self.console.is_terminal:
            return
        if score is None:
            self._bar.update(self._task, advance=1, description=self._label(clock.epoch + 1))
            return
        self._weight = 1 - (1 - self._weight) * (1 - SMOOTHING)
        share = SMOOTHING / self._weight
        self._loss += share * (score.loss - self._loss)
        self._error += share * (score.error - self._error)
        speed = self._images / max(1e-9, time.perf_counter() - self._since)
        numbers = f"loss {self._loss:.3f}  error {100 * self._error:4.1f} %  {speed:,.0f} images/s"
        self._bar.update(self._task, advance=1, numbers=numbers, description=self._label(clock.epoch + 1))

    def epoch(self, epoch: Epoch) -> None:
        """Print the epoch's line."""
        if not self.epoch_lines:
            return
        line = f"epoch {epoch.epoch:3d}/{self._epochs}  test error {100 * epoch.test.error:5.2f} %"
        if epoch.train:
            speed = epoch.train.images / epoch.seconds
            line += f"  train loss {epoch.train.loss:.4f}  error {100 * epoch.train.error:5.2f} %"
            line += f"  {speed:,.0f} images/s"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None and self.console.is_terminal:
            self._bar.stop()
        self._bar = None

    def _label(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._epochs}" if self.epoch_lines else f"{self._title}, epoch {epoch}/{self._epochs}"
