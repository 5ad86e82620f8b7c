"""Larder: a persistent cache in a directory, shared by every process on the machine, with no server.

>>> from larder_cache import Cache
>>> cache = Cache(getfixture("tmp_path") / "app")
>>> cache.set("greeting", "Hello, friend!", 30)
>>> cache.get("greeting")
'Hello, friend!'

Start with :class:`Cache`. :mod:`larder_cache.aio` has the same for asyncio, :mod:`larder_cache.django` the backend for
Django. Values never run code when they are read: there is no pickle unless you ask for one, with a key.
"""

from __future__ import annotations

from collections.abc import MutableMapping as _MutableMapping

from larder_cache import _build as _build
from larder_cache import errors
from larder_cache._larder import (
    Cache,
    Caches,
    Entries,
    Entry,
    Finding,
    PruneReport,
    Stats,
    VerifyReport,
)
from larder_cache._version import __version__
from larder_cache.errors import (
    Busy,
    CodecError,
    ComputationFailed,
    Error,
    Full,
    InvalidKey,
    InvalidOption,
    NewerFormat,
    NotANumber,
    NotFound,
    Overflow,
    ReadOnly,
    Refused,
    StorageError,
    Timeout,
    TooLarge,
    Unsupported,
    Vanished,
    WrongKey,
)

NEVER: float = float("inf")
"""A ttl that doesn't end: ``cache.set(key, value, NEVER)``."""

__all__ = [
    "NEVER",
    "Busy",
    "Cache",
    "Caches",
    "CodecError",
    "ComputationFailed",
    "Entries",
    "Entry",
    "Error",
    "Finding",
    "Full",
    "InvalidKey",
    "InvalidOption",
    "NewerFormat",
    "NotANumber",
    "NotFound",
    "Overflow",
    "PruneReport",
    "ReadOnly",
    "Refused",
    "Stats",
    "StorageError",
    "Timeout",
    "TooLarge",
    "Unsupported",
    "Vanished",
    "VerifyReport",
    "WrongKey",
    "__version__",
    "errors",
]

_MutableMapping.register(Cache)
