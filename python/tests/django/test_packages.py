"""Packages that Django's users have, as they are shipped, over Larder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.test import RequestFactory

from larder_cache import Cache
from larder_cache.django import LarderCache

COUNT_LIMITED = """
import sys, django
from django.conf import settings
settings.configure(SECRET_KEY="x" * 50, CACHES={"default": {"BACKEND": "larder_cache.django.LarderCache", "LOCATION": sys.argv[1]}})
django.setup()
from django.test import RequestFactory
from django_ratelimit.core import is_ratelimited
print("ready", flush=True)
sys.stdin.readline()
request = RequestFactory().get("/")
print(sum(is_ratelimited(request, group="g", key="ip", rate="25/d", increment=True) for _ in range(20)))
"""


def test_ratelimit_counts_exactly_over_processes(tmp_path: Path) -> None:
    """80 requests at once in four processes, of which 25 a day may pass."""
    pytest.importorskip("django_ratelimit")
    command = [sys.executable, "-c", COUNT_LIMITED, str(tmp_path / "cache")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    limited = sum(int(worker.communicate()[0]) for worker in workers)
    assert limited == 80 - 25


def test_the_throttles_of_rest_framework_share_their_history(cache: LarderCache) -> None:
    """It gets a list of moments, adds one, and sets it, so that threads that take turns share one count."""
    pytest.importorskip("rest_framework")
    from rest_framework.throttling import AnonRateThrottle

    class Throttle(AnonRateThrottle):
        rate = "5/day"

    passed: list[bool] = []

    def ask() -> None:
        request: Any = RequestFactory().get("/")
        request.user = None
        passed.append(Throttle().allow_request(request, None))  # type: ignore[arg-type]

    for _ in range(8):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert passed == [True] * 5 + [False] * 3


def test_the_cache_panel_of_the_debug_toolbar(tmp_path: Path) -> None:
    """It replaces methods of the backend's instances by functions that record."""
    pytest.importorskip("debug_toolbar")
    from debug_toolbar.panels.cache import _monkey_patch_cache

    recorded: list[str] = []

    class Panel:
        def _record_call(self, cache: Any, alias: str, name: str, call: Any, args: Any, kwargs: Any) -> Any:
            recorded.append(name)
            return call(*args, **kwargs)

    cache = LarderCache(str(tmp_path / "cache"), {})
    _monkey_patch_cache(cache, "default", Panel())
    cache.set("k", [1], 60)
    assert cache.get("k") == [1]
    assert cache.get_or_set("k", list) == [1]
    assert cache.get_many(["k"]) == {"k": [1]}
    assert cache.set_many({"n": 1}) == [] and cache.incr("n") == 2
    assert cache.has_key("n") and cache.touch("n") and cache.delete("n")
    assert {"set", "get", "get_or_set", "get_many", "set_many", "incr", "has_key", "touch", "delete"} <= set(recorded)


XDIST = """
import os, pytest
from django.conf import settings
settings.configure(SECRET_KEY="x", CACHES={"default": {
    "BACKEND": "larder_cache.django.LarderCache", "LOCATION": os.environ["CACHE_DIR"],
    "KEY_PREFIX": os.environ.get("PYTEST_XDIST_WORKER", "")}})
from django.core.cache import cache

@pytest.mark.parametrize("n", range(60))
def test_mine(n):
    cache.clear()
    for key in range(20):
        cache.set(f"k{key}", [n, key])
    assert cache.get_many(f"k{key}" for key in range(20)) == {f"k{key}": [n, key] for key in range(20)}
"""


def test_the_runners_of_xdist_do_not_wipe_one_another(tmp_path: Path) -> None:
    """Each has a KEY_PREFIX of its own, as Django's documentation advises, and clears the cache before each test."""
    pytest.importorskip("xdist")
    (tmp_path / "test_mine.py").write_text(XDIST)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "-p", "no:cacheprovider", "test_mine.py"]
    environment = {**os.environ, "CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "60 passed" in done.stdout, done.stdout + done.stderr


CELERY = """
import os
from celery import Celery
from larder_cache import Cache
app = Celery("jobs", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
cache = Cache(os.environ["CACHE_DIR"])  # opened before the workers are forked
cache.set("opened by the parent", 1)

@app.task
def count():
    assert cache.get("opened by the parent") == 1
    cache.set(f"pid:{os.getpid()}", 1)
    return cache.incr("jobs", initial=1)
"""


def test_celerys_forked_workers_count_exactly(tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip("celery")
    (tmp_path / "jobs.py").write_text(CELERY)
    environment = {**os.environ, "BROKER": redis_url, "CACHE_DIR": str(tmp_path / "cache")}
    send = [sys.executable, "-c", "import jobs\nfor _ in range(100): jobs.count.delay()"]
    subprocess.run(send, cwd=tmp_path, env=environment, check=True)
    command = ["-A", "jobs", "worker", "--pool=prefork", "--concurrency=3", "--loglevel=error", "--without-gossip"]
    worker = subprocess.Popen([sys.executable, "-m", "celery", *command], cwd=tmp_path, env=environment)
    try:
        cache = Cache[Any](tmp_path / "cache")
        for _ in range(600):
            if cache.get("jobs") == 100:
                break
            # What is waited for is another program's work.
            threading.Event().wait(0.1)
        assert cache.get("jobs") == 100
    finally:
        worker.terminate()
        worker.wait()
    assert cache.get("jobs") == 100, "nothing was counted twice"
    assert list(cache.keys("pid:")), "the forked processes wrote too"


def test_sessions_are_kept_in_the_cache(cache: LarderCache) -> None:
    from django.contrib.sessions.backends.cache import SessionStore

    session = SessionStore()
    session["user"] = 42
    session.save()
    assert SessionStore(session.session_key)["user"] == 42
    caches["default"].clear()
    assert "user" not in SessionStore(session.session_key)
