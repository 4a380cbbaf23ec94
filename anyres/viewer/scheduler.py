"""One thread that draws: tiles first, the newest before older ones, but none kept waiting long; views between them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from anyres.viewer.drawing import Address, Exhibit, draw_tiles
from anyres.viewer.metrics import Metrics

# Orders for tiles that may wait.
QUEUE_LIMIT = 256
# The newest tile is what somebody looks at now; one that has waited so long goes first all the same.
PATIENCE_S = 2.0
# Tiles of one pass: more make the first wait for the last.
BATCH_LIMIT = 4


class Busy(Exception):  # noqa: N818 - a state, not a fault
    """More is waiting than will be drawn in time."""


class Order:
    """A tile that somebody waits for."""

    def __init__(self, key: str, exhibit: Exhibit, address: Address, psi: float) -> None:
        self.key, self.exhibit, self.address, self.psi = key, exhibit, address, psi
        self.drawn: Future[bytes] = Future()
        self.waiting = 0
        self.since = time.monotonic()


class Painter:
    """Draws on a thread of its own from `start` to `close`. `keep` is told of each tile, on that thread."""

    def __init__(
        self, keep: Callable[[str, bytes], None], metrics: Metrics, queue: int = QUEUE_LIMIT, batch: int = BATCH_LIMIT
    ) -> None:
        self._keep, self._metrics, self._queue, self._batch = keep, metrics, queue, batch
        self._orders: dict[str, Order] = {}  # not begun, oldest first
        self._begun: dict[str, Order] = {}
        self._steps: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)
        metrics.waiting.set_function(lambda: len(self._orders))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Give up what waits, and wait for what is being drawn."""
        with self._wake:
            self._closed = True
            for order in self._orders.values():
                order.drawn.cancel()
            for future, _ in self._steps:
                future.cancel()
            self._orders.clear()
            self._steps.clear()
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, key: str, exhibit: Exhibit, address: Address, psi: float) -> Order:
        """Wait for a tile, together with whoever waits for it already; `leave` must follow. Raises Busy."""
        with self._wake:
            order = self._orders.get(key) or self._begun.get(key)
            if order is None:
                if self._closed or len(self._orders) >= self._queue:
                    raise Busy
                order = self._orders[key] = Order(key, exhibit, address, psi)
                self._wake.notify_all()
            order.waiting += 1
            return order

    def leave(self, order: Order) -> None:
        """Wait no longer. What nobody waits for is not drawn."""
        with self._wake:
            order.waiting -= 1
            if not order.waiting and self._orders.get(order.key) is order:
                del self._orders[order.key]
                order.drawn.cancel()
                self._metrics.dropped.inc()
                self._wake.notify_all()

    def step(self, draw: Callable[[], Any]) -> Future[Any]:
        """Call `draw` between tiles, which go first. Cancel the future to do without it. Raises Busy."""
        future: Future[Any] = Future()
        with self._wake:
            if self._closed:
                raise Busy
            self._steps.append((future, draw))
            self._wake.notify_all()
        return future

    def idle(self, seconds: float) -> None:
        """Wait until nothing waits to be drawn or is being drawn, so many seconds at most."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or not (self._orders or self._begun), seconds)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._orders or self._steps)
                if self._closed:
                    return
                orders = self._together()
                step = None if orders else self._steps.popleft()
            if orders:
                self._draw(orders)
            elif step is not None and step[0].set_running_or_notify_cancel():
                _settle(step[0], step[1])

    def _together(self) -> list[Order]:
        """The newest order, or the oldest where that has waited too long, and others of its model and truncation."""
        orders = list(self._orders.values())
        if orders and time.monotonic() - orders[0].since < PATIENCE_S:
            orders.reverse()
        group = [o for o in orders if (o.exhibit, o.psi) == (orders[0].exhibit, orders[0].psi)][: self._batch]
        for order in group:
            self._begun[order.key] = self._orders.pop(order.key)
        return group

    def _draw(self, orders: list[Order]) -> None:
        for order in orders:
            order.drawn.set_running_or_notify_cancel()
        try:
            tiles = draw_tiles(orders[0].exhibit, [order.address for order in orders], orders[0].psi)
        except Exception as error:  # noqa: BLE001 - told to those who wait, and the thread goes on
            for order in orders:
                order.drawn.set_exception(error)
        else:
            self._metrics.passes.inc()
            self._metrics.drawn.inc(len(tiles))
            for order, tile in zip(orders, tiles, strict=True):
                order.drawn.set_result(tile)
            for order, tile in zip(orders, tiles, strict=True):
                self._keep(order.key, tile)
        with self._wake:
            for order in orders:
                del self._begun[order.key]
            self._wake.notify_all()


def _settle(future: Future[Any], draw: Callable[[], Any]) -> None:
    try:
        future.set_result(draw())
    except Exception as error:  # noqa: BLE001 - told to the one who waits
        future.set_exception(error)
