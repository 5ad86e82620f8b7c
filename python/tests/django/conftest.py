"""A Django project for the tests: its caches are in a directory that a session makes and removes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("django")

import django  # noqa: E402
from django.conf import settings  # noqa: E402

_HOME = tempfile.TemporaryDirectory(prefix="larder-django-", ignore_cleanup_errors=True)
BACKEND = "larder_cache.django.LarderCache"


def pytest_configure() -> None:
    if settings.configured:
        return
    settings.configure(
        SECRET_KEY="a secret of the tests",
        ROOT_URLCONF="site_urls",
        INSTALLED_APPS=["larder_cache.django", "django.contrib.sessions"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {}}],
        MIDDLEWARE=[],
        ALLOWED_HOSTS=["*"],
        CACHES={
            "default": {"BACKEND": BACKEND, "LOCATION": f"{_HOME.name}/default"},
            "prefixed": {"BACKEND": BACKEND, "LOCATION": f"{_HOME.name}/default", "KEY_PREFIX": "p"},
        },
        USE_TZ=True,
    )
    django.setup()


@pytest.fixture
def cache() -> Iterator[Any]:
    """The default cache, empty."""
    from django.core.cache import caches

    caches["default"].larder.clear_all()
    yield caches["default"]
    caches["default"].larder.clear_all()
