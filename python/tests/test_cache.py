"""The calls of ``Cache``, on each store."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import larder_cache
from larder_cache import NEVER, Cache, Caches, aio


def test_get_set_delete(store: Cache[Any]) -> None:
    assert store.get("k") is None
    assert store.get("k", 5) == 5
    store.set("k", "v")
    assert store.get("k") == "v"
    assert store.contains("k") and "k" in store
    assert store.delete("k") is True
    assert store.delete("k") is False
    assert "k" not in store


def test_a_stored_none_is_a_value(store: Cache[Any]) -> None:
    store.set("k", None)
    assert store.get("k", "nothing") is None
    assert "k" in store


def test_add_replace_pop(store: Cache[Any]) -> None:
    assert store.replace("k", 1) is False
    assert store.add("k", 1) is True
    assert store.add("k", 2) is False
    assert store.replace("k", 3) is True
    assert store.pop("k") == 3
    assert store.pop("k", "nothing") == "nothing"


def test_numbers(store: Cache[Any]) -> None:
    store.set("n", 5)
    assert store.incr("n") == 6
    assert store.decr("n", 2) == 4
    assert store.get("n") == 4
    assert store.incr("fresh", initial=10, ttl=60) == 10
    assert store.incr("fresh", 5, initial=10) == 15
    with pytest.raises(KeyError):
        store.incr("absent")
    store.set("text", "abc")
    with pytest.raises(ValueError):
        store.incr("text")
    with pytest.raises(OverflowError):
        store.decr("n", -(2**63))


def test_ttls_in_every_form(cache: Cache[Any]) -> None:
    soon = datetime.now(timezone.utc) + timedelta(minutes=5)
    for ttl in [300, 300.0, timedelta(minutes=5), "5m", soon]:
        cache.set("k", 1, ttl)
        assert cache.ttl("k") == pytest.approx(300, abs=5), ttl
    for ttl in [NEVER, "never", math.inf, 10**30]:
        cache.set("k", 1, ttl)
        assert cache.ttl("k") == math.inf
    for ttl in [0, -1, -0.5, timedelta(0), datetime(2000, 1, 1, tzinfo=timezone.utc)]:
        cache.set("k", 1, ttl)
        assert cache.ttl("k") is None, ttl
        assert "k" not in cache
    with pytest.raises(ValueError, match="nan"):
        cache.set("k", 1, math.nan)
    with pytest.raises(TypeError, match="seconds"):
        cache.set("k", 1, object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="90s"):
        cache.set("k", 1, "5 minutes")


def test_touch(store: Cache[Any]) -> None:
    store.set("k", 1, 1000)
    assert store.touch("k", 50) is True
    left = store.ttl("k")
    assert left is not None and left <= 50
    assert store.touch("absent", 50) is False


def test_the_default_ttl(tmp_path: Path) -> None:
    cache = Cache[Any](tmp_path / "cache", default_ttl="1h")
    cache.set("k", 1)
    assert cache.ttl("k") == pytest.approx(3600, abs=5)
    cache.set("k", 1, None)
    assert cache.ttl("k") == pytest.approx(3600, abs=5)


def test_many(store: Cache[Any]) -> None:
    assert store.set_many({"a": 1, "b": "two", b"c": [3], "d": None}, ttl=100) == {}
    assert store.get_many(["a", "b", b"c", "d", "absent"]) == {"a": 1, "b": "two", b"c": [3], "d": None}
    assert store.delete_many(["a", "b", "absent"]) == 2
    assert store.get_many(["a", "b", b"c"]) == {b"c": [3]}
    assert store.get_many([]) == {}
    assert store.set_many({}) == {}


def test_many_more_than_are_read_at_once(store: Cache[Any]) -> None:
    items = {f"k{n}": (n, "x" * n) for n in range(300)}
    assert store.set_many(items) == {}
    assert store.get_many(items) == items


def test_large_values(store: Cache[Any]) -> None:
    for size in [4000, 5000, 60_000, 900_000]:
        store.set("text", "x" * size)
        store.set("bytes", os.urandom(size))
        assert store.get("text") == "x" * size
        assert len(store.get("bytes")) == size


# Keys.


def test_text_and_bytes_are_one_key(cache: Cache[Any]) -> None:
    cache.set("ключ", 1)
    assert cache.get("ключ".encode()) == 1


def test_keys_that_are_too_long_or_no_utf_8_are_hashed(store: Cache[Any]) -> None:
    for key in ["x" * 70_000, b"y" * 70_000, "lone \ud800"]:
        store.set(key, "v")
        assert store.get(key) == "v"
        assert key in store


def test_what_is_no_key_is_refused(cache: Cache[Any]) -> None:
    for key in [1, None, ("a",), 1.5]:
        with pytest.raises(TypeError, match="str or bytes"):
            cache.get(key)  # type: ignore[arg-type]
    with pytest.raises(larder_cache.InvalidKey):
        cache.set("", 1)


# Namespaces, versions, tags.


def test_namespaces_and_versions_are_apart(store: Cache[Any]) -> None:
    a, b = store.namespace("a"), store.namespace("b")
    a.set("k", 1)
    b.set("k", 2)
    a.version(2).set("k", 3)
    assert (a.get("k"), b.get("k"), a.version(2).get("k"), store.get("k")) == (1, 2, 3, None)
    a.clear()
    assert (a.get("k"), b.get("k"), a.version(2).get("k")) == (None, 2, None)
    store.clear()
    assert b.get("k") is None


def test_incr_version_keeps_ttl_and_value(store: Cache[Any]) -> None:
    store.set("k", ["v"], 100)
    assert store.incr_version("k") == 2
    assert store.get("k") is None
    assert store.version(2).get("k") == ["v"]
    left = store.version(2).ttl("k")
    assert left is not None and left <= 100
    with pytest.raises(KeyError):
        store.incr_version("absent")


def test_tags(store: Cache[Any]) -> None:
    store.set("a", 1, tags=["x", "y"])
    store.set("b", 2, tags=["y"])
    store.set("c", 3)
    store.invalidate_tag("x")
    assert store.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}
    store.invalidate_tag("y")
    assert store.get_many(["a", "b", "c"]) == {"c": 3}
    with pytest.raises(TypeError, match="list"):
        store.set("d", 1, tags="xy")  # type: ignore[arg-type]


def test_an_unknown_keyword_is_an_error(cache: Cache[Any]) -> None:
    with pytest.raises(TypeError, match="tags"):
        cache.set("k", 1, tag=["x"])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="max_entries"):
        Cache("/nowhere", max_entrys=5)  # type: ignore[call-arg]


# The mapping.


def test_it_is_a_mapping(cache: Cache[Any]) -> None:
    assert isinstance(cache, MutableMapping)
    assert bool(cache), "an empty cache is a cache"
    cache["a"] = 1
    cache[b"\xff"] = 2
    cache.namespace("other")["c"] = 3
    cache.version(2)["d"] = 4
    assert cache["a"] == 1
    assert set(cache) == {"a", b"\xff"}
    assert set(cache.keys("a")) == {"a"}
    assert len(cache) == 4, "counts the whole cache"
    del cache["a"]
    with pytest.raises(KeyError):
        cache["a"]
    with pytest.raises(KeyError):
        del cache["a"]


def test_entries_tell_what_is_known(cache: Cache[Any]) -> None:
    cache.set("k", "value", 100, tags=["t"], meta={"type": "text"})
    (entry,) = cache.entries()
    assert (entry.key, entry.size, entry.tags, entry.meta, entry.state) == ("k", 5, ["t"], {"type": "text"}, "live")
    assert entry.expires is not None and entry.expires > entry.created
    known = cache.info("k")
    assert known is not None and known.size == 5
    assert cache.info("absent") is None


# Single flight.


def test_get_or_set(store: Cache[Any]) -> None:
    calls: list[int] = []

    def compute() -> list[int]:
        calls.append(1)
        return [1, 2]

    assert store.get_or_set("k", compute, 100) == [1, 2]
    assert store.get_or_set("k", compute, 100) == [1, 2]
    assert calls == [1]
    assert store.get_or_set("plain", 5) == 5
    assert store.get("plain") == 5
    assert store.get_or_set("none", lambda: None) is None
    assert "none" in store


def test_a_call_counts_as_one_hit_or_one_miss(cache: Cache[Any]) -> None:
    """`get_or_set` looked first, and its flight looked again: each miss was counted twice, so rates came out wrong."""

    def counted(call: Callable[[], Any]) -> tuple[int, int]:
        before = cache.stats()
        call()
        after = cache.stats()
        return after.hits - before.hits, after.misses - before.misses

    double = cache.memoize(lambda n: 2 * n)
    tasks = aio.Cache(cache)
    calls: list[Callable[[str], Any]] = [
        lambda key: cache.get(key),
        lambda key: cache.get_or_set(key, 1),
        lambda key: cache.get_or_set(key, 1, 60, early_refresh=1.0),
        lambda key: double(key),
        lambda key: asyncio.run(tasks.get_or_set(key, 1)),
    ]
    for n, call in enumerate(calls):
        assert counted(lambda: call(f"k{n}")) == (0, 1), n
        cache.set(f"k{n}", 1)
        assert counted(lambda: call(f"k{n}")) == (1, 0), n


def test_what_the_function_raises_is_raised(store: Cache[Any]) -> None:
    def fail() -> None:
        raise LookupError("no such page")

    with pytest.raises(LookupError, match="no such page"):
        store.get_or_set("k", fail)
    assert "k" not in store
    with pytest.raises(TypeError, match="serializer"):
        store.get_or_set("k", object)
    assert store.get_or_set("k", lambda: 1) == 1


def test_stale_values_are_served_where_computing_fails(cache: Cache[Any]) -> None:
    cache.get_or_set("k", lambda: "old", 0.05, stale_if_error=60)
    time.sleep(0.1)
    assert cache.get_or_set("k", lambda: 1 // 0, 60, stale_if_error=60) == "old"


def test_a_value_is_refreshed_early_where_that_is_asked_for(cache: Cache[Any]) -> None:
    computed: list[int] = []

    def compute() -> int:
        computed.append(1)
        time.sleep(0.002)
        return len(computed)

    for _ in range(3):
        cache.get_or_set("k", compute, 1000)
    assert len(computed) == 1
    # A factor at which every moment is early enough.
    assert [cache.get_or_set("k", compute, 1000, early_refresh=1e12) for _ in range(3)] == [2, 3, 4]


def test_a_stale_value_is_served_while_one_computes(cache: Cache[Any]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def compute() -> str:
        begun.set()
        assert go_on.wait(30)
        return "new"

    cache.set("k", "old", 0.01, stale_for=1000)
    time.sleep(0.05)
    thread = threading.Thread(target=lambda: cache.get_or_set("k", compute, 60, stale_while_revalidate=1000))
    thread.start()
    assert begun.wait(30)
    assert cache.get_or_set("k", lambda: "mine", 60, stale_while_revalidate=1000) == "old"
    assert cache.get_or_set("k", lambda: "mine", 60, wait_max=0.01) == "mine", "who can't wait computes without storing"
    go_on.set()
    thread.join()
    assert cache.get("k") == "new"


def test_of_many_threads_one_computes(store: Cache[Any]) -> None:
    calls: list[int] = []
    start = threading.Barrier(8)
    found: list[Any] = []

    def compute() -> str:
        calls.append(1)
        time.sleep(0.2)
        return "v"

    def call() -> None:
        start.wait()
        found.append(store.get_or_set("k", compute))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, calls) == (["v"] * 8, [1])


FLY = """
import sys, time
from larder_cache import Cache
cache = Cache(sys.argv[1])
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
import threading
def compute():
    cache.incr("computed", initial=1)
    time.sleep(0.3)
    return "v"
threads = [threading.Thread(target=lambda: cache.get_or_set("k", compute)) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


def python(code: str, *args: object, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **how)


def test_of_32_callers_in_4_processes_one_computes(tmp_path: Path) -> None:
    where = tmp_path / "cache"
    children = [python(FLY, where) for _ in range(4)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        child.communicate("go\n")
        assert child.returncode == 0
    assert Cache[Any](where).get_many(["k", "computed"]) == {"k": "v", "computed": 1}


LEAD = """
import sys, time
from larder_cache import Cache
def compute():
    print("computing", flush=True)
    time.sleep(60)
Cache(sys.argv[1]).get_or_set("k", compute)
"""


def test_a_killed_leader_is_succeeded_at_once(tmp_path: Path) -> None:
    where = tmp_path / "cache"
    leader = python(LEAD, where)
    assert leader.stdout is not None and leader.stdout.readline() == "computing\n"
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(Cache[Any](where).get_or_set("k", lambda: "mine")))
    waiter.start()
    leader.send_signal(signal.SIGKILL)
    leader.communicate()
    waiter.join(20)
    assert found == ["mine"], "not after the leader's 60 seconds"


# Opening.


def test_a_location_is_a_path_or_a_url(tmp_path: Path) -> None:
    where = tmp_path / "with space % and ü"
    for location in [where, str(where), os.fsencode(where)]:
        cache = Cache[Any](location)
        cache.set("k", 1)
        assert cache.directory == where
        assert cache.store == "file"
    assert Cache[Any]("null://").store == "null"
    with pytest.raises(ValueError):
        Cache("nosuch://scheme")


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Cache[Any]("here").directory == tmp_path / "here"


def test_options(tmp_path: Path) -> None:
    cache = Cache[Any](tmp_path / "cache", max_entries=100, max_bytes="64MiB", default_ttl=60, policy="lru", lock_wait=0.5)
    shown = cache.settings()
    assert (shown["max_entries"], shown["max_bytes"], shown["default_ttl"], shown["policy"]) == (100, 64 << 20, 60, "lru")
    cache.configure(max_entries=50)
    assert cache.settings()["max_entries"] == 50
    with pytest.raises(larder_cache.NotFound):
        Cache(tmp_path / "absent", create=False)
    with pytest.raises(larder_cache.InvalidOption, match="32"):
        Cache(tmp_path / "sealed", mac_key=b"short")


def test_the_settings_of_a_directory_hold(tmp_path: Path) -> None:
    Cache[Any](tmp_path / "cache", max_entries=100)
    other = Cache[Any](tmp_path / "cache", max_entries=200)
    assert (other.settings()["max_entries"], other.conflicts()) == (100, {"max_entries": ("200", "100")})
    with pytest.raises(larder_cache.Error, match="max_entries"):
        Cache[Any](tmp_path / "cache", max_entries=200, on_conflict="refuse")
    applied = Cache[Any](tmp_path / "cache", max_entries=200, on_conflict="apply")
    assert (applied.settings()["max_entries"], applied.conflicts()) == (200, {})


def test_a_read_only_cache_refuses_changes(tmp_path: Path) -> None:
    Cache[Any](tmp_path / "cache").set("k", 1)
    reader = Cache[Any](tmp_path / "cache", read_only=True)
    assert reader.get("k") == 1
    with pytest.raises(PermissionError) as raised:
        reader.set("k", 2)
    assert isinstance(raised.value, larder_cache.ReadOnly)


def test_named_caches(tmp_path: Path) -> None:
    caches = Caches.from_toml(f'[pages]\nurl = "file://{tmp_path}/pages"\nmax_entries = 10\n[off]\nurl = "null://"')
    assert caches.names() == ["off", "pages"]
    caches.get("pages").set("k", 1)
    assert caches.get("pages").get("k") == 1
    assert pickle.loads(pickle.dumps(caches.get("pages"))).get("k") == 1
    with pytest.raises(KeyError, match="off, pages"):
        caches.get("absent")


def test_a_handle_is_pickled_by_its_options(tmp_path: Path) -> None:
    cache = Cache[Any](tmp_path / "cache", serializer="pickle", pickle_key=b"k" * 32).namespace("n").version(3)
    cache.set("k", {1: 2})
    again = pickle.loads(pickle.dumps(cache))
    assert again.get("k") == {1: 2}
    assert copy.copy(cache).get("k") == {1: 2}
    assert repr(again) == repr(cache)


def test_it_is_generic() -> None:
    assert Cache[int] is not None
    assert isinstance(Cache[int]("null://"), Cache)


# Maintenance.


def test_stats_prune_verify(cache: Cache[Any]) -> None:
    cache.set_many({f"k{n}": n for n in range(10)})
    cache.set("old", 1, 0.01)
    time.sleep(0.05)
    cache.get("k1")
    cache.get("absent")
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.misses_by["absent"]) == (1, 1, 1)
    assert stats.sets == 11
    report = cache.prune(dry_run=True)
    assert report.dry_run and report.finished
    assert cache.prune(expired=True).kept == 10
    assert cache.prune(max_entries=5).kept == 5
    checked = cache.verify()
    assert (checked.entries, checked.findings) == (5, [])
    cache.flush()
    with pytest.raises(TypeError, match="older_than"):
        cache.prune(olderthan=5)  # type: ignore[call-arg]
    with pytest.raises(NotImplementedError):
        Cache[Any]("memory://").prune()


# Streams.


def test_streams(cache: Cache[Any]) -> None:
    with cache.writer("k", 60, tags=["t"]) as out:
        for n in range(1000):
            out.write(b"line %d\n" % n)
        assert cache.get("k") is None, "nothing is there before the end"
    stream = cache.reader("k")
    assert stream is not None
    with stream:
        assert stream.readline() == b"line 0\n"
        stream.seek(-9, os.SEEK_END)
        assert stream.read() == b"line 999\n"
    assert cache.get("k").startswith(b"line 0")
    assert cache.reader("absent") is None


def test_a_writer_whose_block_fails_stores_nothing(cache: Cache[Any]) -> None:
    with pytest.raises(RuntimeError), cache.writer("k") as out:
        out.write(b"half")
        raise RuntimeError
    assert "k" not in cache
    out = cache.writer("k")
    out.write(b"half")
    out.close()
    assert "k" not in cache


def test_a_writer_of_text(cache: Cache[Any]) -> None:
    with cache.writer("k", text=True) as out:
        out.write("grüße")
        with pytest.raises(TypeError, match="str"):
            out.write(b"bytes")
    assert cache.get("k") == "grüße"


# A model.


class Model(RuleBasedStateMachine):
    """A cache beside a dict: the same calls, the same answers."""

    keys = st.sampled_from(["a", "b", "ключ", b"\xff"])
    values = st.none() | st.integers() | st.text() | st.binary(max_size=6000) | st.lists(st.integers(), max_size=5)

    @initialize()
    def open(self) -> None:
        self.cache = Cache[Any]("memory://") if type(self).where is None else Cache[Any](type(self).where)
        self.cache.clear()
        self.model: dict[Any, Any] = {}

    where: Path | None = None

    @rule(key=keys, value=values)
    def set(self, key: Any, value: Any) -> None:
        self.cache.set(key, value)
        self.model[key] = value

    @rule(key=keys, value=values)
    def add(self, key: Any, value: Any) -> None:
        assert self.cache.add(key, value) is (key not in self.model)
        self.model.setdefault(key, value)

    @rule(key=keys, value=values)
    def replace(self, key: Any, value: Any) -> None:
        assert self.cache.replace(key, value) is (key in self.model)
        if key in self.model:
            self.model[key] = value

    @rule(key=keys)
    def pop(self, key: Any) -> None:
        assert self.cache.pop(key, "nothing") == self.model.pop(key, "nothing")

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        assert self.cache.delete(key) is (self.model.pop(key, self) is not self)

    @rule(key=keys, value=values)
    def get_or_set(self, key: Any, value: Any) -> None:
        assert self.cache.get_or_set(key, lambda: value) == self.model.setdefault(key, value)

    @rule(key=keys)
    def incr(self, key: Any) -> None:
        number = self.model.get(key)
        if type(number) is int and -(2**63) <= number < 2**63 - 1:
            self.model[key] += 1
            assert self.cache.incr(key) == self.model[key]

    @rule(items=st.dictionaries(keys, values))
    def set_many(self, items: dict[Any, Any]) -> None:
        assert self.cache.set_many(items) == {}
        self.model.update(items)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "cache"):
            every = ["a", "b", "ключ", b"\xff"]
            assert self.cache.get_many(every) == self.model
            assert {key: self.cache.get(key) for key in every if key in self.cache} == self.model
            assert set(self.cache) == set(self.model)


def test_a_directory_answers_as_a_dict_does(tmp_path: Path) -> None:
    machine = type("Directory", (Model,), {"where": tmp_path / "cache"})
    machine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
    machine.TestCase("runTest").runTest()


def test_memory_answers_as_a_dict_does() -> None:
    machine = type("Memory", (Model,), {})
    machine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
    machine.TestCase("runTest").runTest()
