"""The backend itself."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, default_key_func
from django.core.exceptions import ImproperlyConfigured

from larder_cache import Cache, Stats, Vanished
from larder_cache._larder import DjangoCalls
from larder_cache.aio import Cache as AsyncCache
from larder_cache.aio import wait
from larder_cache.django.signals import cache_read

_MISSING = object()
#: What the calls of ``DjangoCalls`` go by.
_WATCHED = frozenset({"key_prefix", "version", "key_func", "default_timeout"})
#: Django's own options that aren't Larder's.
_DJANGO_OPTIONS = frozenset({"MAX_ENTRIES", "CULL_FREQUENCY", "SIGNALS"})


class _Open:
    """The caches that this process has open. Django makes a backend for each thread; they share what they open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._caches: dict[str, Cache[Any]] = {}

    def get(self, location: Any, options: dict[str, Any]) -> Cache[Any]:
        known = repr((location, sorted(options.items(), key=lambda item: item[0])))
        with self._lock:
            cache = self._caches.get(known)
            if cache is None:
                cache = self._caches[known] = Cache(location, **options)
            return cache

    def again(self, location: Any, options: dict[str, Any], gone: Cache[Any]) -> Cache[Any]:
        """The cache in place of one whose directory is gone; of all threads that find that out, one opens it."""
        with self._lock:
            for known, cache in list(self._caches.items()):
                if cache is gone:
                    del self._caches[known]
        return self.get(location, options)


_open = _Open()


def _secrets() -> list[bytes]:
    """What pickles are authenticated by: the current ``SECRET_KEY``, then those before it."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [b"larder_cache.django:" + (key.encode() if isinstance(key, str) else bytes(key)) for key in keys]


def larder_options(params: dict[str, Any]) -> dict[str, Any]:
    """The options of a cache out of an alias of ``CACHES``."""
    given = params.get("OPTIONS", {})
    options = {name: value for name, value in given.items() if name not in _DJANGO_OPTIONS}
    # Django's default of 300 entries is for caches that list a directory at each set; only what was said counts.
    for name, source in [("MAX_ENTRIES", given), ("MAX_ENTRIES", params), ("max_entries", params)]:
        if source.get(name) is not None:
            options.setdefault("max_entries", source[name])
    return options


#: Whether this platform has caches in directories.
HAS_DIRECTORIES = sys.platform == "linux"
#: Options that memory has too.
_OF_MEMORY = frozenset({"max_entries", "max_bytes", "default_ttl", "serializer", "pickle_key"})


def is_url(location: Any) -> bool:
    """Whether a ``LOCATION`` is the URL of a store, and no directory."""
    return isinstance(location, str) and re.match(r"[a-z+-]+:", location) is not None


def _where(location: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What is opened for a ``LOCATION``: in development on a platform without caches in directories, memory."""
    if HAS_DIRECTORIES or is_url(location):
        return location, options
    if not settings.DEBUG:
        raise ImproperlyConfigured(
            f"LarderCache keeps caches in directories, such as {str(location)!r}, on Linux alone, and this is "
            f'{sys.platform}. Set LOCATION to a server ("redis://host"). With DEBUG = True the memory of each process stands in.'
        )
    return "memory://", {name: value for name, value in options.items() if name in _OF_MEMORY}


class LarderCache(DjangoCalls, BaseCache):
    """A cache that all processes of a machine share, in a directory; or another store of Larder's, by its URL.

    Plain values (``str``, ``bytes``, ``int``, ``float``, ``bool``, ``None``) are stored as they are. Anything else is
    pickled, and each pickle is authenticated with a key that comes from ``SECRET_KEY`` before it is loaded: what somebody
    else put there, or changed, is a miss and never code.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        BaseCache.__init__(self, params)
        options = larder_options(params)
        options.setdefault("serializer", "pickle")
        if options["serializer"] == "pickle":
            options.setdefault("pickle_key", _secrets())
        self._where = _where(location, options)
        self._store = _open.get(*self._where)
        self._configured = True
        self._reconfigure()
        if params.get("OPTIONS", {}).get("SIGNALS"):
            self.get = self._observed  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _WATCHED and "_configured" in self.__dict__:
            self._reconfigure()

    def _reconfigure(self) -> None:
        kind = type(self)
        plain = (
            self.key_func is default_key_func
            and kind.make_key is BaseCache.make_key
            and kind.validate_key is BaseCache.validate_key
            and kind.make_and_validate_key is BaseCache.make_and_validate_key
        )
        #: This alias's part of the store: what ``clear`` clears.
        self._cache = self._store.namespace(_namespace(self.key_prefix))
        self._configure(
            self._cache, str(self.key_prefix), str(self.version), self.default_timeout, DEFAULT_TIMEOUT, plain
        )

    def _reopen(self) -> None:
        """Opens the directory anew, which was removed or replaced."""
        self._store = _open.again(*self._where, self._store)
        self._reconfigure()

    def _again(self, call: Callable[[Cache[Any]], Any]) -> Any:
        """Does a call, and once more on a directory made anew where it was removed or replaced meanwhile."""
        try:
            return call(self._cache)
        except Vanished:
            self._reopen()
            return call(self._cache)

    @property
    def larder(self) -> Cache[Any]:
        """The :class:`larder_cache.Cache` beneath, with this alias's keys as Django makes them."""
        return self._cache

    def _ttl(self, timeout: Any) -> Any:
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return float("inf") if timeout is None else timeout

    def _observed(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        value = DjangoCalls.get(self, key, _MISSING, version)
        hit = value is not _MISSING
        cache_read.send(sender=type(self), cache=self, key=key, hit=hit)
        return value if hit else default

    # Functions of Python's where speed matters less than that they are some: Django compares their `__func__` with its own.

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Whether the cache has a live value for a key."""
        return DjangoCalls.has_key(self, key, version)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Adds to a stored integer, atomically over all processes; its timeout stays. ``ValueError``: there is none."""
        return DjangoCalls.incr(self, key, delta, version)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """The values of those keys that have one."""
        return DjangoCalls.get_many(self, keys, version)

    def set_many(
        self, data: dict[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **how: Any
    ) -> list[Any]:
        """Stores several values, by keyword also with ``tags`` and ``stale_for``; returns the keys of those that failed."""
        return DjangoCalls.set_many(self, data, timeout, version, **how)

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Removes several keys."""
        DjangoCalls.delete_many(self, keys, version)

    # What Django's own class does in several steps.

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **how: Any
    ) -> Any:
        """The value of a key, or else what ``default`` is or returns, which is then stored. Of all callers in all
        threads and processes that miss at once, one calls ``default``. By keyword: ``tags``, ``stale_if_error``,
        ``stale_while_revalidate``, ``early_refresh``, ``wait_max``; see :meth:`larder_cache.Cache.get_or_set`."""
        made = self.make_and_validate_key(key, version=version)
        return self._again(lambda cache: cache.get_or_set(made, default, self._ttl(timeout), **how))

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Moves a value, with its timeout and tags, ``delta`` versions up, and returns its new version."""
        if version is None:
            version = self.version
        value = self.get(key, _MISSING, version)
        if value is _MISSING:
            raise ValueError(f"Key '{key}' not found")
        made = self.make_key(key, version=version)
        info = self._cache.info(made)
        kept = {} if info is None else {"tags": info.tags, "meta": info.meta}
        moved = self.make_key(key, version=version + delta)
        self._again(lambda cache: cache.set(moved, value, cache.ttl(made), **kept))
        self.delete(key, version)
        return version + delta

    def clear(self) -> None:
        """Removes everything under this alias's ``KEY_PREFIX``, and nothing else."""
        self._again(Cache.clear)

    def close(self, **kwargs: Any) -> None:
        """Does nothing: a cache is left open for the next request."""

    # What Django doesn't have.

    def invalidate_tag(self, tag: str) -> None:
        """Makes a miss of every entry that was set with this tag, in O(1)."""
        self._again(lambda cache: cache.invalidate_tag(tag))

    def stats(self) -> Stats:
        """The counters, which all processes that share the cache count together."""
        stats: Stats = self._again(Cache.stats)
        return stats

    # The same for coroutines: at once where it is answered from memory, else in a thread.

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        if "get" in self.__dict__:
            return await wait(self.get, key, default, version)
        answered, value = self._get_quick(key, default, version)
        return value if answered else await wait(self.get, key, default, version)

    async def aset(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **how: Any
    ) -> None:
        if not self._set_quick(key, value, timeout, version, **how):
            await wait(self.set, key, value, timeout, version, **how)

    async def aadd(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **how: Any
    ) -> bool:
        return await wait(self.add, key, value, timeout, version, **how)

    async def _change(self, call: Callable[..., Any], *args: Any) -> Any:
        return call(*args) if self._changes_at_once else await wait(call, *args)

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return await self._change(self.touch, key, timeout, version)

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        return await self._change(self.delete, key, version)

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await self._change(self.incr, key, delta, version)

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await self._change(self.decr, key, delta, version)

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        return await wait(self.has_key, key, version)

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        return await wait(self.get_many, list(keys), version)

    async def aset_many(
        self, data: dict[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **how: Any
    ) -> list[Any]:
        return await wait(self.set_many, data, timeout, version, **how)

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        await wait(self.delete_many, list(keys), version)

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **how: Any
    ) -> Any:
        """As :meth:`get_or_set`; ``default`` may be a coroutine function, which runs on the event loop."""
        made = self.make_and_validate_key(key, version=version)
        try:
            return await AsyncCache(self._cache).get_or_set(made, default, self._ttl(timeout), **how)
        except Vanished:
            await wait(self._reopen)
            return await AsyncCache(self._cache).get_or_set(made, default, self._ttl(timeout), **how)

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await wait(self.incr_version, key, delta, version)

    async def adecr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await wait(self.decr_version, key, delta, version)

    async def aclear(self) -> None:
        await wait(self.clear)

    async def aclose(self, **kwargs: Any) -> None:
        pass

    async def ainvalidate_tag(self, tag: str) -> None:
        """As :meth:`invalidate_tag`."""
        await wait(self.invalidate_tag, tag)


def _namespace(prefix: Any) -> str:
    """The namespace of a ``KEY_PREFIX``."""
    prefix = str(prefix)
    if not prefix:
        return "django"
    # A namespace has 1,024 bytes at most.
    if len(prefix.encode("utf-8", "surrogatepass")) > 512:
        prefix = hashlib.sha256(prefix.encode("utf-8", "surrogatepass")).hexdigest()
    return f"django:{prefix}"
