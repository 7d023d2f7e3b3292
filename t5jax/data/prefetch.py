"""Prefetching in a background thread."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over `source` in a background thread, at most `ahead` items ahead.

    `next` raises an error of `source` after the items before it: a ValueError with its message, any
    other error as a RuntimeError. The original is the cause.
    """

    def __init__(self, source: Iterator[T], ahead: int):
        self._source = source
        self._ahead = ahead
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="t5jax-data", daemon=True)
        self._thread.start()
        # TensorFlow aborts the process at exit while a thread is inside it.
        atexit.register(self.close)

    def _work(self) -> None:
        try:
            while self._wait_for_room():
                item = next(self._source)
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
        except StopIteration:
            pass
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._ahead)
            return not self._closed

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ready or self._ended)
            if self._closed:
                raise RuntimeError("the data is closed; no batch can be read any more")
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
        if self._error is None:
            raise StopIteration
        if isinstance(self._error, ValueError):
            raise ValueError(str(self._error)) from self._error
        raise RuntimeError(
            f"reading the data failed: {type(self._error).__name__}: {self._error}"
        ) from self._error

    def close(self) -> None:
        """Stops the thread, waiting up to ten seconds for its item. May be called again."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        atexit.unregister(self.close)
