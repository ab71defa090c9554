"""A greenlet that does one thing again and again for as long as the process serves."""

from __future__ import annotations

import gevent


class Periodic:
    """`turn` is one round, its pause included; `start` repeats it until `stop`."""

    _greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End; what was noted stays."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def alive(self) -> bool:
        """Whether it goes on."""
        return bool(self._greenlet)

    def _run(self) -> None:
        while True:
            self.turn()

    def turn(self) -> None:
        """One round. Must pause, and must not raise."""
        raise TypeError(f"{type(self).__name__} does not say what it does")
