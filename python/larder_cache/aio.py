"""The same cache for asyncio.

>>> import asyncio
>>> from larder_cache import aio
>>> async def main():
...     cache = await aio.Cache.open(getfixture("tmp_path") / "app")
...     await cache.set("greeting", "Hello, friend!", 30)
...     return await cache.get("greeting")
>>> asyncio.run(main())
'Hello, friend!'
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import larder_cache
from larder_cache import _larder

__all__ = ["Cache"]

V = TypeVar("V")
T = TypeVar("T")

class _Threads:
    """The threads of this process that wait for files and servers; a forked child starts its own."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="larder")
            self._process = os.getpid()
        return self._pool


_threads = _Threads()

#: The computations that are under way on each event loop, by cache and key.
_flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, asyncio.Future[Any]]] = (
    weakref.WeakKeyDictionary()
)


class Cache(Generic[V]):
    """A :class:`larder_cache.Cache` whose calls are awaited.

    Reads that are answered from memory, and small changes of a cache in a directory or in memory, are done at once,
    without a thread: they take microseconds. All else waits in a thread, never on the event loop.
    """

    __slots__ = ("_cache",)

    def __init__(self, cache: larder_cache.Cache[V]) -> None:
        """Makes one of an open :class:`larder_cache.Cache`; :meth:`open` opens one."""
        self._cache = cache

    @classmethod
    async def open(cls, location: Any, **options: Any) -> Cache[Any]:
        """Opens a cache in a thread; arguments as for :class:`larder_cache.Cache`."""
        return cls(await wait(lambda: larder_cache.Cache(location, **options)))

    @property
    def cache(self) -> larder_cache.Cache[V]:
        """The same cache for code that may block."""
        return self._cache

    def namespace(self, name: str) -> Cache[V]:
        """See :meth:`larder_cache.Cache.namespace`."""
        return Cache(self._cache.namespace(name))

    def version(self, version: int) -> Cache[V]:
        """See :meth:`larder_cache.Cache.version`."""
        return Cache(self._cache.version(version))

    async def __aenter__(self) -> Cache[V]:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"aio.{self._cache!r}"

    async def get(self, key: str | bytes, default: Any = None) -> Any:
        """See :meth:`larder_cache.Cache.get`."""
        answered, value = self._cache._get_quick(key, default)
        return value if answered else await wait(self._cache.get, key, default)

    async def contains(self, key: str | bytes) -> bool:
        """See :meth:`larder_cache.Cache.contains`."""
        return await self._read(self._cache.contains, key)

    async def ttl(self, key: str | bytes) -> float | None:
        """See :meth:`larder_cache.Cache.ttl`."""
        return await self._read(self._cache.ttl, key)

    async def info(self, key: str | bytes) -> _larder.Entry | None:
        """See :meth:`larder_cache.Cache.info`."""
        return await wait(self._cache.info, key)

    async def set(self, key: str | bytes, value: V, ttl: Any = None, **how: Any) -> None:
        """See :meth:`larder_cache.Cache.set`."""
        await self._change(value, self._cache.set, key, value, ttl, **how)

    async def add(self, key: str | bytes, value: V, ttl: Any = None, **how: Any) -> bool:
        """See :meth:`larder_cache.Cache.add`."""
        return await self._change(value, self._cache.add, key, value, ttl, **how)

    async def replace(self, key: str | bytes, value: V, ttl: Any = None, **how: Any) -> bool:
        """See :meth:`larder_cache.Cache.replace`."""
        return await self._change(value, self._cache.replace, key, value, ttl, **how)

    async def delete(self, key: str | bytes) -> bool:
        """See :meth:`larder_cache.Cache.delete`."""
        return await self._change(None, self._cache.delete, key)

    async def pop(self, key: str | bytes, default: Any = None) -> Any:
        """See :meth:`larder_cache.Cache.pop`."""
        return await self._change(None, self._cache.pop, key, default)

    async def touch(self, key: str | bytes, ttl: Any = None) -> bool:
        """See :meth:`larder_cache.Cache.touch`."""
        return await self._change(None, self._cache.touch, key, ttl)

    async def incr(self, key: str | bytes, delta: int = 1, *, initial: int | None = None, ttl: Any = None) -> int:
        """See :meth:`larder_cache.Cache.incr`."""
        return await self._change(None, self._cache.incr, key, delta, initial=initial, ttl=ttl)

    async def decr(self, key: str | bytes, delta: int = 1, *, initial: int | None = None, ttl: Any = None) -> int:
        """See :meth:`larder_cache.Cache.decr`."""
        return await self._change(None, self._cache.decr, key, delta, initial=initial, ttl=ttl)

    async def incr_version(self, key: str | bytes, delta: int = 1) -> int:
        """See :meth:`larder_cache.Cache.incr_version`."""
        return await wait(self._cache.incr_version, key, delta)

    async def get_many(self, keys: Iterable[str | bytes]) -> dict[Any, V]:
        """See :meth:`larder_cache.Cache.get_many`."""
        return await wait(self._cache.get_many, list(keys))

    async def set_many(self, items: Mapping[Any, V], ttl: Any = None, **how: Any) -> dict[Any, larder_cache.Error]:
        """See :meth:`larder_cache.Cache.set_many`."""
        return await wait(self._cache.set_many, items, ttl, **how)

    async def delete_many(self, keys: Iterable[str | bytes]) -> int:
        """See :meth:`larder_cache.Cache.delete_many`."""
        return await wait(self._cache.delete_many, list(keys))

    async def invalidate_tag(self, tag: str) -> None:
        """See :meth:`larder_cache.Cache.invalidate_tag`."""
        await wait(self._cache.invalidate_tag, tag)

    async def clear(self) -> None:
        """See :meth:`larder_cache.Cache.clear`."""
        await wait(self._cache.clear)

    async def stats(self) -> _larder.Stats:
        """See :meth:`larder_cache.Cache.stats`."""
        return await wait(self._cache.stats)

    async def blocking(self, work: Callable[[larder_cache.Cache[V]], T]) -> T:
        """Does anything that a :class:`larder_cache.Cache` can, in a thread: listings, prunes, streams."""
        return await wait(work, self._cache)

    async def get_or_set(self, key: str | bytes, default: Any, ttl: Any = None, **how: Any) -> Any:
        """The value of a key, or else what ``default`` makes, which is then stored.

        ``default`` is a value, a function, or a coroutine function, which runs on this event loop. Of all callers in all
        tasks, threads and processes that miss at once, one computes; the others wait for its value. A caller that is
        cancelled ends its own waiting; the computation goes on, since others may wait for it.
        """
        call = self._cache.get_or_set
        if "early_refresh" not in how:
            answered, value = self._cache._get_quick(key, _MISS)
            if answered:
                if value is not _MISS:
                    return value
                call = self._cache._set_after_miss
        loop = asyncio.get_running_loop()
        flights = _flights.setdefault(loop, {})
        flight = self._cache._identity(key)
        under_way = flights.get(flight)
        if under_way is None:
            under_way = loop.create_future()
            flights[flight] = under_way
            under_way.add_done_callback(lambda _: flights.pop(flight, None))
            compute = _on(loop, default)
            _fly(loop, under_way, lambda: call(key, compute, ttl, **how))
        return await asyncio.shield(under_way)

    async def _read(self, call: Callable[..., T], key: str | bytes) -> T:
        return call(key) if self._cache._is_quick(key) else await wait(call, key)

    async def _change(self, value: Any, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        small = not isinstance(value, (str, bytes, bytearray, memoryview)) or len(value) <= _SMALL
        if small and self._cache._changes_at_once:
            return call(*args, **kwargs)
        return await wait(call, *args, **kwargs)


_MISS = object()
#: Characters or bytes of a value that is stored in mapped memory, in some 30 µs with its compression.
_SMALL = 16 * 1024


async def wait(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Runs a call in a thread, in a copy of the caller's context."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(
        _threads.pool(), lambda: context.run(call, *args, **kwargs)
    )


def _on(loop: asyncio.AbstractEventLoop, default: Any) -> Any:
    """What a thread calls for a value: a coroutine is run on the loop, in the context of the caller."""
    if not callable(default):
        return default
    context = contextvars.copy_context()

    def compute() -> Any:
        made: Any = context.run(default)
        if not inspect.isawaitable(made):
            return made

        async def finish(made: Awaitable[Any]) -> Any:
            return await made

        # What is handed to the loop runs there in the context that it was handed over in.
        return context.run(asyncio.run_coroutine_threadsafe, finish(made), loop).result()

    return compute


def _fly(loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[Any], call: Callable[[], Any]) -> None:
    """Runs a call in a thread of its own, since it may wait for other computations: a pool could be full of those."""

    def settle(value: Any, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(value)
        else:
            outcome.set_exception(error)
            # Whoever waited may be gone; that isn't to be complained about.
            outcome.exception()

    def run() -> None:
        value, error = None, None
        try:
            value = call()
        except BaseException as raised:  # noqa: BLE001
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="larder-flight", daemon=True).start()
