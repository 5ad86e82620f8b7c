"""``LarderCache`` beyond what Django's own suite asks."""

from __future__ import annotations

import asyncio
import decimal
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import CacheKeyWarning
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.utils.safestring import SafeString, mark_safe
from hypothesis import given, settings
from hypothesis import strategies as st

from larder_cache import Cache
from larder_cache.django import LarderCache, cache_read

BACKEND = "larder_cache.django.LarderCache"


class Thing:
    """Something that only a pickle can hold."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.name == self.name


class Planted:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Planted, "ran", True))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    """Makes backends by their OPTIONS and parameters."""

    def make(location: Any = tmp_path / "cache", **params: Any) -> LarderCache:
        return LarderCache(str(location), params)

    yield make


def test_two_lines_of_settings_do(cache: LarderCache) -> None:
    cache.set("greeting", "Hello, friend!", 30)
    assert cache.get("greeting") == "Hello, friend!"


@pytest.mark.parametrize(
    "value", [Thing("x"), [Thing("y")], mark_safe("<b>"), {1: 2}, (1,), decimal.Decimal("1.5"), 2**100, True, None, 1.5, b"x"]
)
def test_whatever_can_be_pickled_comes_back(cache: LarderCache, value: Any) -> None:
    cache.set("k", value)
    found = cache.get("k", "nothing")
    assert found == value and type(found) is type(value)


def test_safe_strings_stay_safe(cache: LarderCache) -> None:
    cache.set("k", mark_safe("<b>"))
    assert type(cache.get("k")) is SafeString


# Security.


def test_a_planted_pickle_is_a_miss_and_never_code(cache: LarderCache) -> None:
    made = cache.make_key("k")
    for codec in [0, 3, 4, 17, 18, 19, 20]:
        cache.larder._plant(made, pickle.dumps(Planted()), codec)
        cache.get("k")
        cache.get_many(["k"])
        cache.get_or_set("k", 5)
    assert not Planted.ran


def test_a_pickle_is_good_under_its_own_key_alone(cache: LarderCache) -> None:
    cache.set("admin", Thing("admin"))
    sealed = cache.larder.reader(cache.make_key("admin")).read()  # type: ignore[union-attr]
    cache.larder._plant(cache.make_key("guest"), sealed, 19)
    assert cache.get("guest", "miss") == "miss"
    cache.larder._plant(cache.make_key("admin"), sealed[:-1] + bytes([sealed[-1] ^ 1]), 19)
    assert cache.get("admin", "miss") == "miss"


def test_secret_keys_are_rotated_and_counters_stay(make: Any) -> None:
    old = make()
    old.set("k", Thing("x"))
    old.set("n", 5)
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=["a secret of the tests"]):
        rotated = make()
        assert rotated.get("k") == Thing("x")
        rotated.set("new", Thing("y"))
    with override_settings(SECRET_KEY="another one"):
        alone = make()
        assert alone.get("k", "miss") == "miss"
        assert alone.get("new") == Thing("y")
        assert alone.incr("n") == 6


def test_a_pickle_whose_class_is_gone_is_a_miss(cache: LarderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a deployment a cache must not take the site down."""
    cache.set("k", Thing("x"))
    monkeypatch.delattr(sys.modules[__name__], "Thing")
    assert cache.get("k", "miss") == "miss"


# Keys.

_locmem = LocMemCache("keys", {})


@given(st.text(), st.sampled_from([None, 1, 2, 10**20]))
@settings(max_examples=300, deadline=None)
def test_keys_are_made_and_warned_of_as_django_does(key: str, version: int | None) -> None:
    cache = caches["default"]
    with warnings.catch_warnings(record=True) as ours:
        warnings.simplefilter("always")
        cache.set(key, 1, version=version)
    with warnings.catch_warnings(record=True) as theirs:
        warnings.simplefilter("always")
        made = _locmem.make_and_validate_key(key, version)
    assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]
    assert cache.larder.contains(made)
    cache.larder.delete(made)


def test_keys_that_are_no_text_are_made_as_django_does(cache: LarderCache) -> None:
    for key in [1, 1.5, (1, 2), None, Thing]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheKeyWarning)
            cache.set(key, "v")
            assert cache.get(key) == "v"
            assert cache.get(str(key)) == "v"


def test_a_key_function_and_a_check_of_ones_own_are_called(make: Any) -> None:
    cache = make(KEY_FUNCTION=lambda key, prefix, version: f"mine|{key}", OPTIONS={})
    cache.set("k", 1)
    assert cache.larder.contains("mine|k")

    class Strict(LarderCache):
        def validate_key(self, key: str) -> None:
            if "bad" in key:
                raise ValueError(key)

    strict = Strict(str(cache.larder.directory), {})
    with pytest.raises(ValueError):
        strict.get("bad")


def test_attributes_may_be_changed(make: Any) -> None:
    cache = make()
    cache.set("k", 1)
    cache.version = 2
    assert cache.get("k") is None
    cache.key_prefix = "p"
    cache.set("k", 2)
    assert make(KEY_PREFIX="p", VERSION=2).get("k") == 2
    cache.default_timeout = None
    cache.set("k", 2)
    assert cache.larder.ttl(cache.make_key("k")) == float("inf")


# What Django has and others lack.


def test_clear_leaves_other_prefixes_alone(cache: LarderCache) -> None:
    cache.set("k", 1)
    caches["prefixed"].set("k", 2)
    cache.clear()
    assert (cache.get("k"), caches["prefixed"].get("k")) == (None, 2)
    cache.set("k", 1)
    caches["prefixed"].clear()
    assert (cache.get("k"), caches["prefixed"].get("k")) == (1, None)


def test_incr_keeps_the_timeout_and_is_exact(cache: LarderCache) -> None:
    cache.set("n", 0, 1000)
    threads = [threading.Thread(target=lambda: [caches["default"].incr("n") for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("n") == 800
    left = cache.larder.ttl(cache.make_key("n"))
    assert left is not None and 900 < left <= 1000


def test_incr_version_keeps_timeout_and_tags(cache: LarderCache) -> None:
    cache.set("k", Thing("x"), 100, tags=["t"])
    assert cache.incr_version("k") == 2
    assert cache.get("k") is None
    assert cache.get("k", version=2) == Thing("x")
    left = cache.larder.ttl(cache.make_key("k", 2))
    assert left is not None and left <= 100
    cache.invalidate_tag("t")
    assert cache.get("k", version=2) is None
    with pytest.raises(ValueError):
        cache.incr_version("absent")


def test_get_or_set_computes_once_for_all_threads(cache: LarderCache) -> None:
    calls: list[int] = []

    def slow() -> Thing:
        calls.append(1)
        time.sleep(0.2)
        return Thing("x")

    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(caches["default"].get_or_set("k", slow, 60))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Thing("x")] * 6
    assert calls == [1]


def test_tags(cache: LarderCache) -> None:
    cache.set("a", 1, tags=["x"])
    cache.set_many({"b": 2, "c": 3}, tags=["x"])
    cache.add("d", 4, 60, tags=["y"])
    cache.get_or_set("e", 5, 60, tags=["x"])
    cache.invalidate_tag("x")
    assert cache.get_many("abcde") == {"d": 4}


def test_the_coroutines(cache: LarderCache) -> None:
    async def computed() -> Thing:
        await asyncio.sleep(0.01)
        return Thing("async")

    async def main() -> None:
        await cache.aset("k", Thing("x"), 60)
        assert await cache.aget("k") == Thing("x")
        await cache.aset("big", ["x" * 100_000])
        assert await cache.aget("big") == ["x" * 100_000]
        assert await cache.aget("absent", 5) == 5
        assert not await cache.aadd("k", 1)
        assert await cache.ahas_key("k")
        assert await cache.atouch("k", 10)
        assert await cache.adelete("k")
        await cache.aset("n", 1)
        assert (await cache.aincr("n"), await cache.adecr("n")) == (2, 1)
        assert await cache.aset_many({"a": 1, "b": Thing("b")}, tags=["t"]) == []
        assert await cache.aget_many(["a", "b"]) == {"a": 1, "b": Thing("b")}
        await cache.ainvalidate_tag("t")
        assert await cache.aget_many(["a", "b"]) == {}
        assert await asyncio.gather(*(cache.aget_or_set("c", computed, 60) for _ in range(50))) == [Thing("async")] * 50
        assert await cache.aincr_version("n") == 2
        await cache.adelete_many(["c"])
        await cache.aclear()
        assert await cache.aget("n", version=2) is None
        await cache.aclose()

    asyncio.run(main())


def test_a_signal_of_hits_and_misses(make: Any) -> None:
    seen: list[tuple[Any, bool]] = []

    def receive(key: Any, hit: bool, **_: Any) -> None:
        seen.append((key, hit))

    cache_read.connect(receive)
    try:
        cache = make(OPTIONS={"SIGNALS": True})
        cache.get("k")
        cache.set("k", None)
        assert cache.get("k", 5) is None
        assert asyncio.run(cache.aget("k")) is None
    finally:
        cache_read.disconnect(receive)
    assert seen == [("k", False), ("k", True), ("k", True)]


# Settings.


def test_options_are_larders_by_their_names(make: Any) -> None:
    cache = make(OPTIONS={"max_bytes": "64MiB", "MAX_ENTRIES": 50, "CULL_FREQUENCY": 3})
    shown = cache.larder.settings()
    assert (shown["max_bytes"], shown["max_entries"]) == (64 << 20, 50)
    assert make("memory://").larder.store == "memory"


def test_djangos_300_entries_are_not_inherited(make: Any) -> None:
    assert make().larder.settings()["max_entries"] == 1_000_000


def test_an_unknown_option_names_those_there_are(make: Any) -> None:
    with pytest.raises(ValueError, match="max_entries"):
        make(OPTIONS={"max_entrys": 5})


def test_the_same_settings_reach_redis_and_memcached(redis_url: str, memcached_url: str, make: Any) -> None:
    for url in [redis_url, memcached_url]:
        cache = make(url, OPTIONS={"prefix": f"dj{os.getpid()}"})
        cache.set("k", Thing("x"), 60)
        assert cache.get("k") == Thing("x")
        cache.set("n", 1)
        assert cache.incr("n") == 2
        assert cache.get_many(["k", "n"]) == {"k": Thing("x"), "n": 2}
        cache.clear()
        assert cache.get("k") is None


def test_threads_share_what_is_open(cache: LarderCache) -> None:
    stores: list[Any] = []
    thread = threading.Thread(target=lambda: stores.append(caches["default"]._store))
    thread.start()
    thread.join()
    assert stores[0] is cache._store


# Checks and commands.


def messages(**aliases: Any) -> dict[str, str]:
    from larder_cache.django.checks import check_caches

    with override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}, **aliases}):
        return {message.id: message.msg for message in check_caches()}


def test_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path.cwd() / "cache-that-is-not-made")
    monkeypatch.setattr("larder_cache.django.checks._CLEANED", ("/tmp",))
    assert messages(a={"BACKEND": BACKEND, "LOCATION": here}) == {}
    assert messages(a={"BACKEND": BACKEND, "LOCATION": "redis://localhost"}) == {}
    assert set(messages(a={"BACKEND": BACKEND})) == {"larder_cache.E001"}
    assert set(messages(a={"BACKEND": BACKEND, "LOCATION": "/tmp/x"})) == {"larder_cache.W003"}
    cull = {"BACKEND": BACKEND, "LOCATION": here, "OPTIONS": {"CULL_FREQUENCY": 3}}
    assert set(messages(a=cull)) == {"larder_cache.I001"}
    one = {"BACKEND": BACKEND, "LOCATION": here, "OPTIONS": {"max_entries": 5}}
    two = {"BACKEND": BACKEND, "LOCATION": here, "KEY_PREFIX": "x"}
    assert set(messages(a=one, b=two)) == {"larder_cache.W001"}
    monkeypatch.setattr("larder_cache.django.checks._file_system", lambda path: "nfs4")
    assert set(messages(a={"BACKEND": BACKEND, "LOCATION": here})) == {"larder_cache.W002"}


def test_options_that_do_not_hold_are_told_of(make: Any, tmp_path: Path) -> None:
    """Limits belong to the directory: new ones in OPTIONS change nothing by themselves, and that must not stay unsaid."""
    make(OPTIONS={"max_entries": 1000, "max_bytes": "1MiB"})
    here = {"BACKEND": BACKEND, "LOCATION": str(tmp_path / "cache")}
    assert messages(a={**here, "OPTIONS": {"max_entries": 1000}}).keys() <= {"larder_cache.W003"}
    other = messages(a={**here, "OPTIONS": {"max_entries": 2000, "max_bytes": "1MiB"}})
    assert "max_entries is 1000, not 2000" in other["larder_cache.W006"]
    make(OPTIONS={"max_entries": 2000, "on_conflict": "apply"})
    assert "larder_cache.W006" not in messages(a={**here, "OPTIONS": {"max_entries": 2000}})


def test_a_cache_without_a_limit_of_bytes_is_told_of_before_a_deployment(tmp_path: Path) -> None:
    from larder_cache.django.checks import check_limits

    unlimited = {"BACKEND": BACKEND, "LOCATION": str(tmp_path)}
    limited = {**unlimited, "OPTIONS": {"max_bytes": "1GiB"}}
    with override_settings(CACHES={"default": limited, "server": {"BACKEND": BACKEND, "LOCATION": "redis://localhost"}}):
        assert check_limits() == []
    with override_settings(CACHES={"default": unlimited}):
        assert [message.id for message in check_limits()] == ["larder_cache.W005"]


def test_a_platform_without_directories(monkeypatch: pytest.MonkeyPatch, make: Any, tmp_path: Path) -> None:
    """On a colleague's laptop the project runs, and says how; in production it must not lose the cache silently."""
    monkeypatch.setattr("larder_cache.django.backend.HAS_DIRECTORIES", False)
    here = {"BACKEND": BACKEND, "LOCATION": str(tmp_path / "cache")}
    with pytest.raises(ImproperlyConfigured, match=r"Linux.*redis://.*DEBUG"):
        make()
    assert set(messages(a=here)) == {"larder_cache.E003"}
    assert make("memory://").get("k") is None
    with override_settings(DEBUG=True):
        assert set(messages(a=here)) == {"larder_cache.W004"}
        cache = make(OPTIONS={"max_entries": 50, "max_bytes": "1MiB", "policy": "lru", "compression": "zstd", "min_free_bytes": 1})
        assert cache.larder.store == "memory" and not (tmp_path / "cache").exists()
        cache.set("k", Thing("x"), 60, tags=["t"])
        assert cache.get("k") == Thing("x") and make(OPTIONS={"max_entries": 50, "max_bytes": "1MiB"}).get("k") == Thing("x")


def test_a_directory_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "larder_cache.E002" in messages(a={"BACKEND": BACKEND, "LOCATION": "/var/cache/site"})


def test_the_command(cache: LarderCache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.set_many({f"k{n}": n for n in range(5)})
    cache.get("k1")
    call_command("larder", "stats")
    assert "entries    5 of 1,000,000" in capsys.readouterr().out
    call_command("larder", "prune", "--dry-run")
    assert "would remove 0 entries" in capsys.readouterr().out
    call_command("larder", "verify")
    assert "5 sound entries, 0 findings" in capsys.readouterr().out
    call_command("larder", "clear")
    assert cache.get("k1") is None
    with override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}):
        with pytest.raises(CommandError, match="DummyCache"):
            call_command("larder", "stats")


def test_the_application_registers_its_checks(tmp_path: Path) -> None:
    code = (
        "from django.conf import settings; import django\n"
        f"settings.configure(SECRET_KEY='x', INSTALLED_APPS=['larder_cache.django'], CACHES={{'default': "
        f"{{'BACKEND': {BACKEND!r}, 'LOCATION': {str(tmp_path)!r}, 'OPTIONS': {{'CULL_FREQUENCY': 2}}}}}})\n"
        "django.setup()\nfrom django.core.management import call_command; call_command('check')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "larder_cache.I001" in done.stdout + done.stderr


def test_a_cache_of_the_raw_package_reads_its_plain_values(cache: LarderCache) -> None:
    cache.set("k", "text")
    raw = Cache[Any](cache.larder.directory)  # type: ignore[arg-type]
    assert raw.namespace("django").get(":1:k") == "text"


# A directory that goes.

CALLS: dict[str, Any] = {
    "set": lambda cache: cache.set("k", 1),
    "add": lambda cache: cache.add("k", 1),
    "set_many": lambda cache: cache.set_many({"k": 1}),
    "get_or_set": lambda cache: cache.get_or_set("k", 1),
    "incr_version": lambda cache: cache.set("k", 1) or cache.incr_version("k"),
    "clear": lambda cache: cache.clear(),
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
    "aset": lambda cache: asyncio.run(cache.aset("k", 1)),
    "aget_or_set": lambda cache: asyncio.run(cache.aget_or_set("k", 1)),
}


def test_a_directory_removed_under_a_live_site_is_made_anew(make: Any, tmp_path: Path) -> None:
    """Deploy scripts empty /var/cache. Each call of each worker raised `Vanished` from then on."""
    open_in = {name: (make(tmp_path / name), make(tmp_path / name)) for name in CALLS}
    for name, (cache, _) in open_in.items():
        cache.set("before", 1)
        shutil.rmtree(tmp_path / name)
    # A cache looks once a second whether its directory is still there.
    time.sleep(1.1)
    for name, (cache, other) in open_in.items():
        CALLS[name](cache)
        cache.set("after", 2)
        assert (tmp_path / name).exists(), name
        assert other.add("other", 3) and cache.get("other") == 3, "the backends of all threads come to use the new one"
