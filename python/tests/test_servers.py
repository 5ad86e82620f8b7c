"""uWSGI and gevent, the real programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def at_once(count: int, url: str) -> list[str]:
    """What so many requests of eight threads are answered."""

    def ask(_: int) -> str:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode())

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(ask, range(count)))


def counts_exactly(site: str) -> None:
    """The front page is rendered once for all workers, and no visit is lost or counted twice."""
    assert at_once(24, f"{site}/") == ["<h1>rendered 1 times</h1>"] * 24
    visits = sorted(json.loads(answer)["visits"] for answer in at_once(60, f"{site}/visit"))
    assert visits == list(range(1, 61))


def test_uwsgi_that_forks_after_the_cache_was_opened(tmp_path: Path, serve: Any) -> None:
    """Without `--lazy-apps` the master loads the application, and three processes of two threads go on with its cache."""
    program = shutil.which("uwsgi", path=str(Path(sys.executable).parent)) or shutil.which("uwsgi")
    if program is None:
        pytest.skip("uwsgi is not installed")
    pytest.importorskip("django")
    how = ["--master", "--processes=3", "--threads=2", "--enable-threads", "--die-on-term", "--disable-logging"]
    how += ["--pythonpath", str(EXAMPLES), "--module", "django_site:application"]
    with serve(
        lambda port: [program, f"--http-socket=127.0.0.1:{port}", *how],
        cwd=EXAMPLES,
        CACHE_DIR=str(tmp_path / "cache"),
    ) as port:
        counts_exactly(f"http://127.0.0.1:{port}")


def test_gunicorn_with_gevents_workers(tmp_path: Path, serve: Any) -> None:
    pytest.importorskip("gunicorn")
    pytest.importorskip("gevent")
    pytest.importorskip("django")
    how = ["--worker-class=gevent", "--workers=2", "django_site:application"]
    with serve(
        lambda port: [sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{port}", *how],
        cwd=EXAMPLES,
        CACHE_DIR=str(tmp_path / "cache"),
    ) as port:
        counts_exactly(f"http://127.0.0.1:{port}")


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from larder_cache import Cache
cache = Cache(sys.argv[1])

def slow(n):
    def compute():
        gevent.sleep(0.01 * (n % 3))  # others run meanwhile, and end in another order
        return n
    return compute

def work(n):
    assert cache.get_or_set(f"k{n % 5}", slow(n % 5), 60) == n % 5
    cache.set(f"own{n}", [n])
    assert cache.get(f"own{n}") == [n]
    return cache.incr("n", initial=1)

jobs = [gevent.spawn(work, n) for n in range(100)]
gevent.joinall(jobs, timeout=20)
print(sorted(job.value or 0 for job in jobs) == list(range(1, 101)))
"""


def test_greenlets_that_compute_the_same_keys_do_not_wait_for_one_another_for_ever(tmp_path: Path) -> None:
    """They share a thread. One that waited in it for another's computation would keep that from going on: so a greenlet
    computes for itself where another of its thread does already. (Greenlets leave Rust's calls in another order than they
    entered them. PyO3 takes that for a mistake in builds with debug assertions, and this test fails there.)"""
    pytest.importorskip("gevent")
    command = [sys.executable, "-c", GREENLETS, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stdout + done.stderr
