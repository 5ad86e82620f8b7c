"""Caching what functions return, by their arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from larder_cache._larder import Cache, memo_key


class CacheInfo(NamedTuple):
    """How it went with a memoized function in this process."""

    hits: int
    misses: int


class _Miss:
    """What no cache holds."""


class _Key:
    """The key of a call: a hash over its arguments as the function names them, so that ``f(1)``, ``f(a=1)`` and, where
    it is the default, ``f()`` are one."""

    def __init__(self, function: Callable[..., Any], ignore: frozenset[str]) -> None:
        self._signature = inspect.signature(function)
        unknown = ignore - self._signature.parameters.keys()
        if unknown:
            raise TypeError(f"{function.__qualname__} has no parameter {', '.join(sorted(unknown))} to ignore")
        self._ignore = ignore
        self._where = f"{function.__module__}.{function.__qualname__}"

    def __call__(self, *args: Any, **kwargs: Any) -> bytes:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = tuple(
            (name, tuple(sorted(value.items())) if isinstance(value, dict) and self._is_rest(name) else value)
            for name, value in bound.arguments.items()
            if name not in self._ignore
        )
        try:
            return memo_key(named)
        except TypeError as error:
            hint = f"the arguments of {self._where} make no key: {error}. Leave some out by ignore=[…], or give key=…"
            raise TypeError(hint) from None

    def _is_rest(self, name: str) -> bool:
        return self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD


def memoize(
    cache: Cache[Any],
    function: Callable[..., Any] | None = None,
    *,
    ttl: Any = None,
    name: str | None = None,
    key: Callable[..., str | bytes] | None = None,
    ignore: Any = (),
    **how: Any,
) -> Any:
    """See :meth:`larder_cache.Cache.memoize`."""
    if isinstance(ignore, str):
        raise TypeError("ignore is a list of str, not one str; write [...] around it")

    def decorate(function: Callable[..., Any]) -> Any:
        part = cache.namespace(f"memo:{name or f'{function.__module__}.{function.__qualname__}'}")
        make_key = key or _Key(function, frozenset(ignore))
        made = _asynchronous if inspect.iscoroutinefunction(function) else _synchronous
        wrapper: Any = made(part, function, make_key, ttl, how)
        wrapper.cache = part
        wrapper.cache_key = make_key
        wrapper.cache_clear = part.clear
        return wrapper

    return decorate if function is None else decorate(function)


class _Counts:
    hits = 0
    misses = 0

    def info(self) -> CacheInfo:
        """Hits and misses of this process since the function was decorated."""
        return CacheInfo(self.hits, self.misses)


def _synchronous(
    part: Cache[Any],
    function: Callable[..., Any],
    make_key: Callable[..., str | bytes],
    ttl: Any,
    how: dict[str, Any],
) -> Any:
    counts = _Counts()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = make_key(*args, **kwargs)
        get_or_set = part.get_or_set
        if "early_refresh" not in how:
            found = part.get(call, _Miss)
            if found is not _Miss:
                counts.hits += 1
                return found
            get_or_set = part._set_after_miss
        called = False

        def compute() -> Any:
            nonlocal called
            called = True
            return function(*args, **kwargs)

        value = get_or_set(call, compute, ttl, **how)
        if called:
            counts.misses += 1
        else:
            counts.hits += 1
        return value

    def refresh(*args: Any, **kwargs: Any) -> Any:
        """Calls the function, whatever the cache has, and stores what it returns."""
        value = function(*args, **kwargs)
        part.set(make_key(*args, **kwargs), value, ttl, **_stored(how))
        return value

    wrapper.refresh = refresh  # type: ignore[attr-defined]
    wrapper.cache_info = counts.info  # type: ignore[attr-defined]
    wrapper.forget = lambda *args, **kwargs: part.delete(make_key(*args, **kwargs))  # type: ignore[attr-defined]
    return wrapper


def _asynchronous(
    part: Cache[Any],
    function: Callable[..., Any],
    make_key: Callable[..., str | bytes],
    ttl: Any,
    how: dict[str, Any],
) -> Any:
    from larder_cache.aio import Cache as AsyncCache

    counts, tasks = _Counts(), AsyncCache(part)

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        called = False

        async def compute() -> Any:
            nonlocal called
            called = True
            return await function(*args, **kwargs)

        value = await tasks.get_or_set(make_key(*args, **kwargs), compute, ttl, **how)
        if called:
            counts.misses += 1
        else:
            counts.hits += 1
        return value

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        """Calls the function, whatever the cache has, and stores what it returns."""
        value = await function(*args, **kwargs)
        await tasks.set(make_key(*args, **kwargs), value, ttl, **_stored(how))
        return value

    async def forget(*args: Any, **kwargs: Any) -> bool:
        return await tasks.delete(make_key(*args, **kwargs))

    wrapper.refresh = refresh  # type: ignore[attr-defined]
    wrapper.cache_info = counts.info  # type: ignore[attr-defined]
    wrapper.forget = forget  # type: ignore[attr-defined]
    return wrapper


def _stored(how: dict[str, Any]) -> dict[str, Any]:
    """What of the arguments of ``get_or_set`` concerns the entry."""
    kept: dict[str, Any] = {name: how[name] for name in how if name in ("tags", "meta")}
    stale = [how[name] for name in ("stale_if_error", "stale_while_revalidate") if how.get(name)]
    return {**kept, "stale_for": stale[0]} if stale else kept
