"""Django's own tests of cache backends, under Larder. `run.py` copies this beside Django's and runs it."""

import os
import shutil
import tempfile
import unittest

from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.core.cache import caches
from django.test import TestCase, override_settings

ROOT = os.environ["LARDER_SUITE_DIR"]

#: Each test of Django's that can't pass, and why.
EXCEPTIONS = {
    "test_cull": "expects that a third of all entries goes at the limit; Larder evicts one for each new one",
    "test_zero_cull": "expects that everything goes at the limit; Larder evicts one for each new one",
}


def _settings() -> dict:
    """A directory for all aliases but those whose limits are others: limits belong to the directory."""
    aliases = caches_setting_for_tests(BACKEND="larder_cache.django.LarderCache")
    for alias, params in aliases.items():
        own = alias if alias in ("cull", "zero_cull") else "shared"
        params["LOCATION"] = os.path.join(ROOT, "suite", own)
    return aliases


class LarderCacheTests(BaseCacheTests, TestCase):
    """All that Django asks of any backend."""

    def setUp(self) -> None:
        super().setUp()
        for alias in caches:
            caches[alias].clear()

    # What the tests of the file-based and of the local-memory backend ask that concerns others too.

    def test_clear_does_not_remove_cache_dir(self) -> None:
        caches["default"].clear()
        self.assertTrue(os.path.exists(os.path.join(ROOT, "suite", "shared")))

    def test_creates_cache_dir_if_nonexistent(self) -> None:
        directory = tempfile.mkdtemp()
        shutil.rmtree(directory)
        caches_settings = {"default": {"BACKEND": "larder_cache.django.LarderCache", "LOCATION": directory}}
        with override_settings(CACHES=caches_settings):
            caches["default"].set("foo", "bar")
            self.assertTrue(os.path.exists(directory))
        shutil.rmtree(directory)

    def test_incr_decr_timeout(self) -> None:
        cache = caches["default"]
        cache.set("value", 1, timeout=cache.default_timeout * 10)
        left = cache.larder.ttl(cache.make_key("value"))
        self.assertEqual((cache.incr("value"), cache.decr("value")), (2, 1))
        self.assertAlmostEqual(cache.larder.ttl(cache.make_key("value")), left, delta=5)

    def test_limit_of_entries_holds(self) -> None:
        """What `test_cull` is for: the limit holds, and evicts no more than it must."""
        cache = caches["cull"]
        for n in range(1, 51):
            cache.set(f"cull{n}", "value", 1000)
        left = sum(cache.has_key(f"cull{n}") for n in range(1, 51))
        self.assertIn(left, range(20, 31))

    def test_get_ignores_enoent(self) -> None:
        caches["default"].set("foo", "bar")
        caches["default"].delete("foo")
        self.assertEqual(caches["default"].get("foo", "baz"), "baz")


for _name, _why in EXCEPTIONS.items():
    if hasattr(LarderCacheTests, _name):
        setattr(LarderCacheTests, _name, unittest.skip(_why)(getattr(LarderCacheTests, _name)))

LarderCacheTests = override_settings(CACHES=_settings())(LarderCacheTests)
del BaseCacheTests
