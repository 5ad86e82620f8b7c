"""A signal for those who count hits and misses."""

from __future__ import annotations

from django.dispatch import Signal

#: Sent for each ``get`` of a cache whose ``OPTIONS`` have ``"SIGNALS": True``: ``sender`` is the backend's class,
#: ``cache`` the backend, ``key`` the key as it was given, ``hit`` whether there was a value.
cache_read = Signal()
