"""Settings under which Django's own suite runs: sessions and everything else that caches go to Larder."""

import os
from typing import Any

from django.core.cache.backends import locmem

from larder_cache.django import LarderCache

ROOT = os.environ["LARDER_SUITE_DIR"]


class InPlaceOfLocMem(LarderCache):
    """Tests of pages, middleware and fragments name a local-memory cache in their settings; they get this one."""

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(os.path.join(ROOT, "locmem", name or "unnamed"), params)


locmem.LocMemCache = InPlaceOfLocMem  # type: ignore[misc]

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3"}, "other": {"ENGINE": "django.db.backends.sqlite3"}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
CACHES = {"default": {"BACKEND": "larder_cache.django.LarderCache", "LOCATION": f"{ROOT}/default"}}
