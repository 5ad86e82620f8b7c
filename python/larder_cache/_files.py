"""Values as file objects."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from larder_cache._larder import Cache, RawReader, RawWriter

_BUFFER = 256 * 1024


class _RawReads(io.RawIOBase):
    """What a buffered reader reads from."""

    def __init__(self, raw: RawReader) -> None:
        super().__init__()
        self._raw = raw

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)


def reader(cache: Cache[Any], key: str | bytes) -> io.BufferedReader | None:
    """A value to be read piece by piece, or ``None`` where there is none."""
    raw = cache._reader(key)
    return None if raw is None else io.BufferedReader(_RawReads(raw), _BUFFER)


class Writer(io.RawIOBase):
    """A value being written. It is stored as a whole when its ``with`` block ends well, or by :meth:`commit`; a block
    that ends by an exception, and a writer that is closed before, store nothing."""

    def __init__(self, raw: RawWriter, text: bool) -> None:
        super().__init__()
        self._raw = raw
        self._text = text
        self._done = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Takes bytes, or ``str`` for a writer with ``text=True``."""
        if isinstance(data, str) is not self._text:
            wanted, opened = ("str", "with") if self._text else ("bytes", "without")
            raise TypeError(f"{wanted} is needed, as the writer was opened {opened} text=True")
        return self._raw.write(data.encode() if self._text else data)

    def commit(self) -> bool:
        """Stores the value. ``False``: the cache was cleared, or one of its tags invalidated, since the writer was
        opened, and nothing was stored."""
        self._done = True
        stored = self._raw.commit()
        self.close()
        return stored

    def close(self) -> None:
        """Ends writing; what wasn't committed is discarded."""
        if not self._done:
            self._done = True
            self._raw.discard()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._done:
            self.commit()
        self.close()


def writer(
    cache: Cache[Any],
    key: str | bytes,
    ttl: Any = None,
    *,
    text: bool = False,
    tags: Iterable[str] | None = None,
    meta: Mapping[str, str] | None = None,
    stale_for: Any = None,
) -> Writer:
    """A value to be written piece by piece."""
    return Writer(cache._writer(key, ttl, text, tags=tags, meta=meta, stale_for=stale_for), text)
