"""How a pickled handle is opened in another process: by its options, never by its state."""

from __future__ import annotations

from typing import Any

from larder_cache._larder import Cache, Caches


def _handle(cache: Cache[Any], namespace: str, version: int) -> Cache[Any]:
    if namespace:
        cache = cache.namespace(namespace)
    return cache if version == 1 else cache.version(version)


def _reopen(args: tuple[Any, dict[str, Any]], namespace: str, version: int) -> Cache[Any]:
    location, options = args
    return _handle(Cache(location, **options), namespace, version)


def _reopen_named(args: tuple[str, str, dict[str, Any]], namespace: str, version: int) -> Cache[Any]:
    text, name, how = args
    return _handle(Caches.from_toml(text).get(name, **how), namespace, version)
