"""Being asked to stop: a run finishes its step, saves and says how to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stops:
    """As a context: signals that ask to stop are noted in `asked`, and whoever is busy looks there between steps.

    Pressing Ctrl-C a second time is a KeyboardInterrupt at once. Outside of the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in ASKING:
                if signal.getsignal(each) is not signal.SIG_IGN:  # as under nohup
                    self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = signal.Signals(number)
        if again and self.asked is signal.SIGINT:
            raise KeyboardInterrupt
