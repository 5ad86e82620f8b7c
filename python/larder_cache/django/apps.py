"""The application, for those who want system checks, ``manage.py larder`` and the template tag."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register


class LarderCacheConfig(AppConfig):
    """``INSTALLED_APPS = ["larder_cache.django", …]``."""

    name = "larder_cache.django"
    label = "larder_cache"
    verbose_name = "Larder"

    def ready(self) -> None:
        from larder_cache.django import checks

        register(checks.check_caches, Tags.caches)
        register(checks.check_limits, Tags.caches, deploy=True)
