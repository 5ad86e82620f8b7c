"""``SESSION_ENGINE = "larder_cache.django.sessions"``: Django's ``cached_db``, where one request asks the database.

Sessions are in the database and in the cache of ``SESSION_CACHE_ALIAS``, so an evicted one logs nobody out. Of all requests
of a session that miss at once (a page and its scripts, say), one reads the row and the others wait for it.
"""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends import cached_db

from larder_cache.django.backend import LarderCache
from larder_cache.errors import Error

#: Seconds for which a session is cached until its real expiry is set, right afterwards.
_AT_FIRST = 60


class _NoSession(Exception):
    """There is no such session."""


class SessionStore(cached_db.SessionStore):
    """A session in the database, and in the cache."""

    def load(self) -> dict[str, Any]:
        if not isinstance(self._cache, LarderCache):
            return super().load()  # type: ignore[no-any-return]
        ages: list[int] = []

        def fetch() -> dict[str, Any]:
            return self._decoded(self._get_session_from_db(), ages)

        try:
            data: dict[str, Any] = self._cache.get_or_set(self.cache_key, fetch, _AT_FIRST)
            if ages:
                self._cache.touch(self.cache_key, ages[0])
        except _NoSession:
            return {}
        except Error:
            # Another request's attempt failed, or the cache did: this one's own.
            return super().load()  # type: ignore[no-any-return]
        return data

    async def aload(self) -> dict[str, Any]:
        if not isinstance(self._cache, LarderCache):
            return await super().aload()  # type: ignore[no-any-return]
        ages: list[int] = []

        async def fetch() -> dict[str, Any]:
            return self._decoded(await self._aget_session_from_db(), ages)

        key = await self.acache_key()
        try:
            data: dict[str, Any] = await self._cache.aget_or_set(key, fetch, _AT_FIRST)
            if ages:
                await self._cache.atouch(key, ages[0])
        except _NoSession:
            return {}
        except Error:
            return await super().aload()  # type: ignore[no-any-return]
        return data

    def _decoded(self, row: Any, ages: list[int]) -> dict[str, Any]:
        if row is None:
            raise _NoSession
        ages.append(self.get_expiry_age(expiry=row.expire_date))
        data: dict[str, Any] = self.decode(row.session_data)
        return data
