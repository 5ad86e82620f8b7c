"""Packages that Django's users have, as they are shipped, over Larder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from datetime import timedelta
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


TOOLBAR = """
import re, sys
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x", DEBUG=True, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], STATIC_URL="/static/",
    INSTALLED_APPS=["django.contrib.staticfiles", "debug_toolbar", "larder_cache.django"],
    MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    DEBUG_TOOLBAR_PANELS=["debug_toolbar.panels.cache.CachePanel"],
    DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: True, "IS_RUNNING_TESTS": False},
    CACHES={"default": {"BACKEND": "larder_cache.django.LarderCache", "LOCATION": sys.argv[1]}},
)
django.setup()
from debug_toolbar.toolbar import debug_toolbar_urls
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from django.urls import path

def front(request):
    cache.get("nothing")
    cache.set("k", [1], 60)
    cache.get("k")
    cache.get_or_set("k", list)
    cache.get_many(["k", "nothing"])
    return HttpResponse("<html><body>front</body></html>")

urlpatterns = [path("", front), *debug_toolbar_urls()]
client = Client()
shown = client.get("/").content.decode()
where = re.search(r'data-request-id="([^"]+)"', shown)[1]
panel = client.get("/__debug__/render_panel/", {"request_id": where, "panel_id": "CachePanel"}).json()["content"]
cells = [cell.strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", panel, re.DOTALL)]
print(cells[0], cells[2], cells[3], "default (LarderCache)" in panel)
"""


def test_the_cache_panel_shows_calls_hits_and_misses(tmp_path: Path) -> None:
    """A page of a project with the toolbar, and the panel as the browser fetches it."""
    pytest.importorskip("debug_toolbar")
    command = [sys.executable, "-W", "ignore", "-c", TOOLBAR, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "5 3 2 True\n", done.stdout + done.stderr


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


def test_one_request_of_a_session_asks_the_database(cache: LarderCache) -> None:
    """The requests of a page's scripts come at once: after an eviction each of them asked for the same row."""
    from django.utils import timezone

    from larder_cache.django.sessions import SessionStore

    asked: list[str] = []
    class Session(SessionStore):
        def _get_session_from_db(self) -> Any:
            asked.append(str(self.session_key))
            threading.Event().wait(0.2)
            return row if self.session_key == row.session_key else None

        async def _aget_session_from_db(self) -> Any:
            return self._get_session_from_db()

    row = Session.get_model_class()(
        session_key="s" * 32,
        session_data=Session().encode({"user": 42}),
        expire_date=timezone.now() + timedelta(seconds=1000),
    )
    users: list[Any] = []
    threads = [threading.Thread(target=lambda: users.append(Session(row.session_key)["user"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (users, len(asked)) == ([42] * 6, 1)
    left = cache.larder.ttl(cache.make_key(Session(row.session_key).cache_key))
    assert left is not None and 900 < left <= 1000, "it is cached until the session ends"
    assert asyncio.run(Session(row.session_key).aload()) == {"user": 42} and len(asked) == 1
    assert Session("n" * 32).load() == {} and asyncio.run(Session("n" * 32).aload()) == {}
    cache.clear()
    assert asyncio.run(Session(row.session_key).aload()) == {"user": 42} and len(asked) == 4
