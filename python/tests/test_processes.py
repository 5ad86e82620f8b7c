"""Forks, spawned processes, threads and signals."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from larder_cache import Cache


def add(cache: Cache[Any], times: int) -> None:
    for _ in range(times):
        cache.incr("n", initial=1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_processes_of_every_kind_count_together(cache: Cache[Any], method: str) -> None:
    context = multiprocessing.get_context(method)
    cache.set("made before", [1])
    children = [context.Process(target=add, args=(cache, 200)) for _ in range(3)]
    for child in children:
        child.start()
    add(cache, 200)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert cache.get("n") == 800
    assert cache.get("made before") == [1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_amid_changes_goes_on(cache: Cache[Any]) -> None:
    """Another thread changes the cache while the process forks: no lock of its may be left held in the child."""
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            cache.set("busy", os.urandom(100))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                try:
                    cache.set("child", "was here")
                    assert cache.get("child") == "was here"
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_threads_share_a_handle(cache: Cache[Any]) -> None:
    threads = [threading.Thread(target=add, args=(cache, 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("n") == 2000


CUT_SHORT = """
import faulthandler, glob, os, sys
if sys.argv[2] == "before": faulthandler.enable()
from larder_cache import Cache
cache = Cache(sys.argv[1])
cache.set("k", "v")
if sys.argv[2] == "after": faulthandler.enable()
# A foreign hand cuts the mapped files short; the next touch raises SIGBUS.
for root, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(root, name)
        if os.path.getsize(path) > 65536: os.truncate(path, 0)
try:
    for n in range(100): cache.set(f"k{n}", "v" * 1000); cache.get(f"k{n}")
except OSError as error:
    print("ended by", type(error).__name__)
else:
    print("went on")
"""


def test_a_mapped_file_that_is_cut_short_raises_beside_faulthandler(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CUT_SHORT, str(tmp_path / "cache"), "before"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("ended by", "went on"))
    assert "Fatal Python error" not in done.stderr


def test_faulthandler_that_is_enabled_afterwards_shows_where_and_dies(tmp_path: Path) -> None:
    """It takes the signal over, as docs/PYTHON.md says: enable it before the first cache is opened."""
    assert faulthandler.is_enabled() or True
    command = [sys.executable, "-c", CUT_SHORT, str(tmp_path / "cache"), "after"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 or "Bus error" in done.stderr


def test_a_subinterpreter_is_refused_clearly() -> None:
    code = (
        "import larder_cache\n"
        "try: import _xxsubinterpreters as sub\n"
        "except ImportError: import _interpreters as sub\n"
        "interp = sub.create()\n"
        "out = sub.run_string(interp, 'import larder_cache')\n"
        "if out is not None: print(out.formatted)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    shown = done.stdout + done.stderr
    assert "subinterpreters" in shown and "ImportError" in shown


def test_ctrl_c_ends_a_prune(cache: Cache[Any]) -> None:
    import signal

    cache.set_many({f"k{n}": n for n in range(3000)})

    def raised(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raised)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        with pytest.raises(KeyboardInterrupt):
            while True:
                cache.prune(older_than=1000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


LEAK = """
import resource, sys
from larder_cache import Cache
cache = Cache(sys.argv[1], serializer="pickle", pickle_key=b"k" * 32, max_entries=1000)
class Thing: pass
import pickle
def round(n):
    for i in range(n):
        key = f"k{i % 500}"
        cache.set(key, i)
        cache.get(key)
        cache.set(key, [i, "x", None, {"a": 1.5}])
        cache.get(key)
        cache.get("absent")
        cache.get_or_set(key, dict)
        if i % 50 == 0:
            cache.set_many({f"m{j}": (j,) for j in range(20)}, tags=["t"])
            cache.get_many([f"m{j}" for j in range(20)])
            list(cache.keys("m"))
            cache.stats(), cache.info(key)
            try: cache.set(key, lambda: 1)
            except Exception: pass
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
round(int(sys.argv[2]) // 10)
before = peak()
round(int(sys.argv[2]))
print(peak() - before)
"""


def test_a_million_calls_leak_nothing(tmp_path: Path) -> None:
    """6 calls a round. A leak of one small object a call would be tens of megabytes."""
    rounds = os.environ.get("LARDER_LEAK_ROUNDS", "170000")
    command = [sys.executable, "-c", LEAK, str(tmp_path / "cache"), rounds]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 8_192, f"{grown} KiB more after a million calls"
