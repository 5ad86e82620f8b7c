"""Larder as a cache backend of Django.

::

    CACHES = {"default": {"BACKEND": "larder_cache.django.LarderCache", "LOCATION": "/var/cache/site"}}

``LOCATION`` is a directory, or the URL of another store. ``OPTIONS`` are Larder's, by their names; ``MAX_ENTRIES`` is
``max_entries``. With ``"larder_cache.django"`` in ``INSTALLED_APPS`` there are also system checks, ``manage.py larder`` and
the template tag ``larder_cache``.
"""

from __future__ import annotations

from larder_cache.django.backend import LarderCache
from larder_cache.django.page import larder_cache_page
from larder_cache.django.properties import larder_cached_property
from larder_cache.django.signals import cache_read

__all__ = ["LarderCache", "cache_read", "larder_cache_page", "larder_cached_property"]
