"""Larder beside its neighbours, through Django's cache API and raw: ``bench.py [--quick]`` prints two tables and the gates.

A figure is microseconds a call: the mean of the best of many short rounds, in each of which every backend takes its turn.
Other work on the machine only adds to a round. Take ratios, not figures, to another machine.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings

HOME = Path(tempfile.mkdtemp(prefix="larder-bench-"))
LARDER = "larder_cache.django.LarderCache"
#: Ports are added once the servers run.
BACKENDS: dict[str, dict[str, Any]] = {
    "Larder": {"BACKEND": LARDER, "LOCATION": str(HOME / "larder")},
    "LocMem": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 1_000_000}},
    "FileBased": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": str(HOME / "files"),
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},
    },
    "diskcache": {"BACKEND": "diskcache.DjangoCache", "LOCATION": str(HOME / "diskcache")},
    "Redis": {"BACKEND": "django.core.cache.backends.redis.RedisCache"},
    "Memcached": {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache"},
}
PAGE = "".join(f'<li class="item"><a href="/item/{n * 7919 % 10007}/">Item {n * 31 % 997}</a></li>\n' for n in range(2000))
VALUES: dict[str, Any] = {
    "small str": "Hello, friend!",
    "256 B": b"x" * 256,
    "dict of 10": {f"field {n}": [n, str(n), n / 3][n % 3] for n in range(10)},
    "page of 9 KB": PAGE[:9_000],
    "page of 60 KB": PAGE[:60_000],
}

Op = Callable[[Any, int], Any]


def operations() -> dict[str, tuple[Callable[[Any], Any] | None, Op]]:
    """Each operation's name, what prepares it, and what is timed."""
    found: dict[str, tuple[Callable[[Any], Any] | None, Op]] = {}
    for name, value in VALUES.items():
        found[f"set {name}"] = (None, lambda cache, n, v=value: cache.set(f"k{n % 100}", v))  # type: ignore[misc]
        found[f"get {name}"] = (
            lambda cache, v=value: [cache.set(f"k{n}", v) for n in range(100)],  # type: ignore[misc]
            lambda cache, n: cache.get(f"k{n % 100}"),
        )
    found["incr"] = (lambda cache: cache.set("n", 1), lambda cache, n: cache.incr("n"))
    found["miss"] = (None, lambda cache, n: cache.get(f"absent{n % 100}"))
    many = {f"m{n}": VALUES["dict of 10"] for n in range(100)}
    found["set_many(100)"] = (None, lambda cache, n: cache.set_many(many))
    found["get_many(100)"] = (lambda cache: cache.set_many(many), lambda cache, n: cache.get_many(list(many)))
    return found


class Locked:
    """What a program writes that has no cache: a dict behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """The value of a key."""
        with self._lock:
            return self._values.get(key)

    def set(self, key: str, value: Any) -> None:
        """Stores a value."""
        with self._lock:
            self._values[key] = value


def raw_caches() -> dict[str, Any]:
    """Caches by their own interfaces; those that aren't installed are said and left out."""
    import larder_cache

    found: dict[str, Any] = {"Larder": larder_cache.Cache(HOME / "raw-larder"), "dict and lock": Locked()}
    for name in ("diskcache", "diskcache-community", "diskcache-rs", "pysciqlop-cache"):
        try:
            found[name] = importlib.import_module(name.replace("-", "_")).Cache(str(HOME / f"raw-{name}"))
        except Exception as why:  # noqa: BLE001
            print(f"bench: {name} is left out: {why!r}", file=sys.stderr)
    return found


def one_round(cache: Any, op: Op, seconds: float) -> float:
    """Microseconds a call over about so many seconds."""
    calls, clock = 0, time.perf_counter_ns
    step = 1
    start = clock()
    end = start + int(seconds * 1e9)
    # At least one call, however long the machine was busy elsewhere.
    while (now := clock()) < end or not calls:
        for n in range(calls, calls + step):
            op(cache, n)
        calls += step
        # Fewer looks at the clock than calls, so that it isn't measured too.
        step = min(max(1, calls), 256)
    return (now - start) / 1000 / calls


def measure(caches: dict[str, Any], ops: dict[str, Any], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """The best of the rounds, by operation and cache."""
    table: dict[str, dict[str, float]] = {}
    for name, (prepare, op) in ops.items():
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            for label, cache in caches.items():
                try:
                    if prepare is not None:
                        prepare(cache)
                    times.setdefault(label, []).append(one_round(cache, op, seconds))
                except Exception as why:  # noqa: BLE001
                    print(f"bench: {label}: {name}: {why!r}", file=sys.stderr)
        table[name] = {label: min(found) for label, found in times.items()}
    return table


def show(table: dict[str, dict[str, float]], labels: list[str]) -> None:
    """A table in Markdown."""
    print("| µs | " + " | ".join(labels) + " |")
    print("|---" * (len(labels) + 1) + "|")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{row[label]:.3g}" if label in row else "–" for label in labels) + " |")


def _worker(alias: str, seconds: float, out: Any) -> None:
    from django.core.cache import caches

    # A connection of its own: those of Django's clients don't survive a fork.
    cache, calls, end = caches.create_connection(alias), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for n in range(20):
            cache.get(f"p{n}")
        cache.set(f"p{calls % 20}", VALUES["dict of 10"])
        calls += 21
    out.put(calls)


def processes(alias: str, seconds: float) -> float:
    """Calls a second of four processes together, one in 21 of them a set."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    workers = [context.Process(target=_worker, args=(alias, seconds, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    calls = sum(out.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    return calls / seconds


FIRST = """
import sys, time
from larder_cache import Cache
start = time.perf_counter()
Cache(sys.argv[1]).get("k")
print((time.perf_counter() - start) * 1e3)
"""


@contextmanager
def server(alias: str, command: list[str], url: str) -> Iterator[None]:
    """A server on a free port of the loopback interface; without it, its column is left out."""
    if shutil.which(command[0]) is None:
        print(f"bench: {command[0]} is not installed; {alias} is left out", file=sys.stderr)
        del BACKENDS[alias]
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    BACKENDS[alias]["LOCATION"] = url.format(port=port)
    with subprocess.Popen([part.format(port=port) for part in command], stdout=subprocess.DEVNULL) as running:
        try:
            time.sleep(0.5)
            yield
        finally:
            running.terminate()


def gates(api: dict[str, dict[str, float]], raw: dict[str, dict[str, float]]) -> None:
    """What Larder is held to beside LocMem and a dict."""
    held = [(f"get {name}", 0.75) for name in ("small str", "256 B", "dict of 10")]
    held += [(f"set {name}", 0.8) for name in ("small str", "256 B", "dict of 10")]
    held += [("get page of 9 KB", 1.5), ("set page of 9 KB", 2.5), ("get_many(100)", 0.6)]
    print("\n| gate | at most | measured | |\n|---|---|---|---|")
    rows = [(f"{name}: Larder / LocMem", most, api[name]["Larder"] / api[name]["LocMem"]) for name, most in held]
    name = "get small str"
    rows.append((f"raw {name}: Larder / dict and lock", 1.0, raw[name]["Larder"] / raw[name]["dict and lock"]))
    for text, most, ratio in rows:
        print(f"| {text} | {most} | {ratio:.2f} | {'held' if ratio <= most else 'missed'} |")


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    rounds, seconds = (4, 0.01) if arguments.parse_args().quick else (20, 0.02)
    redis = ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", ""]
    memcached = ["memcached", "-l", "127.0.0.1", "-p", "{port}", "-u", "nobody"]
    with (
        server("Redis", redis, "redis://127.0.0.1:{port}"),
        server("Memcached", memcached, "127.0.0.1:{port}"),
    ):
        settings.configure(SECRET_KEY="bench", CACHES={"default": BACKENDS["LocMem"], **BACKENDS})
        from django.core.cache import InvalidCacheBackendError, caches

        opened = {}
        for alias in BACKENDS:
            try:
                opened[alias] = caches[alias]
            except (InvalidCacheBackendError, ImportError) as why:
                print(f"bench: {alias} is left out: {why}", file=sys.stderr)
        print(f"Python {platform.python_version()}, {platform.machine()}; best of {rounds} rounds\n\nThrough Django's API:\n")
        api = measure(opened, operations(), rounds, seconds)
        show(api, list(opened))
        together = {alias: processes(alias, 1.0) for alias in opened if alias != "LocMem"}
        print("\n4 processes, calls a second: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in together.items()))
        raw = raw_caches()
        wanted = {name: op for name, op in operations().items() if not name.endswith("(100)") and name != "incr"}
        print("\nRaw, without Django:\n")
        found = measure(raw, wanted, rounds, seconds)
        show(found, list(raw))
        first = [float(subprocess.check_output([sys.executable, "-c", FIRST, str(HOME / "raw-larder")])) for _ in range(5)]
        print(f"\nOpening and the first get: {statistics.median(first):.1f} ms")
        gates(api, found)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(HOME, ignore_errors=True)
