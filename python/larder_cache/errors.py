"""What can go wrong. Every exception is an :class:`Error`, and also the built-in that its cause would raise elsewhere."""

from __future__ import annotations

__all__ = [
    "Busy",
    "CodecError",
    "ComputationFailed",
    "Error",
    "Full",
    "InvalidKey",
    "InvalidOption",
    "NewerFormat",
    "NotANumber",
    "NotFound",
    "Overflow",
    "ReadOnly",
    "Refused",
    "StorageError",
    "Timeout",
    "TooLarge",
    "Unsupported",
    "Vanished",
    "WrongKey",
]


class Error(Exception):
    """The base of all of them. ``path`` is the file or directory concerned, where there is one."""

    path: str | None = None

    def __str__(self) -> str:
        # KeyError would show the repr of its argument.
        return str(self.args[0]) if self.args else ""


class InvalidKey(Error, ValueError):
    """The key is empty, or the namespace is too long."""


class InvalidOption(Error, ValueError):
    """An option or argument has a value that it can't have; the message says what is allowed."""


class NotFound(Error, KeyError):
    """There is no such entry for a call that needs one; or, on opening with ``create=False``, no cache."""


class NotANumber(Error, ValueError, TypeError):
    """``incr`` or ``decr`` met a value that is no decimal integer."""


class Overflow(Error, OverflowError):
    """``incr`` or ``decr`` would leave the range of 64-bit integers."""


class TooLarge(Error, ValueError):
    """The value, its metadata or its tags are over a limit. The old value stays."""


class Busy(Error, TimeoutError):
    """Another process held a lock for longer than ``lock_wait``. Trying again later may work."""


class Full(Error, OSError):
    """The disk or quota is full, even after evictions. The old value stays."""


class ReadOnly(Error, PermissionError):
    """The cache was opened read-only, or its file system is mounted so."""


class Refused(Error, PermissionError):
    """The directory isn't safe to use or isn't a cache; the message says why."""


class NewerFormat(Error, RuntimeError):
    """A newer release of Larder made this cache in a way that this one can't use."""


class WrongKey(Error, PermissionError):
    """The cache was made with another ``mac_key``, or with none."""


class Vanished(Error, FileNotFoundError):
    """The directory was removed or replaced while it was open. Open it again to start afresh."""


class CodecError(Error, ValueError):
    """A value could not be encoded or decoded."""


class ComputationFailed(Error, RuntimeError):
    """``get_or_set`` waited for another caller's computation, which failed; the message says why."""


class Timeout(Error, TimeoutError):
    """A server did not answer in time."""


class Unsupported(Error, NotImplementedError):
    """This store can't do that."""


class StorageError(Error, OSError):
    """Any other error of the operating system or the network."""


for _name in __all__:
    # Users catch larder_cache.Busy, so that is what a traceback shows.
    globals()[_name].__module__ = "larder_cache"
del _name
