"""Larder beside its neighbours, through Django's cache API and raw: ``bench.py [--quick]`` prints two tables and the gates.

A figure is microseconds a call: the mean of the best of many short rounds, in each of which every backend takes its turn.
Other work on the machine only adds to a round. Take ratios, not figures, to another machine.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import multiprocessing
import pickle
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
    "d.-community": {"BACKEND": "diskcache_community.DjangoCache", "LOCATION": str(HOME / "diskcache-community")},
    "diskcache-rs": {"BACKEND": "diskcache_rs.DjangoCache", "LOCATION": str(HOME / "diskcache-rs")},
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


class Foyer:
    """A memory of 64 MiB before a disk. It holds bytes alone, so values are pickled."""

    def __init__(self, directory: str) -> None:
        import foyer

        mebibyte = 1 << 20
        self._cache = foyer.HybridCache(directory, memory_capacity=64 * mebibyte, storage_capacity=256 * mebibyte)

    def get(self, key: str) -> Any:
        """The value of a key."""
        found = self._cache.get(key)
        return None if found is None else pickle.loads(found)

    def set(self, key: str, value: Any) -> None:
        """Stores a value."""
        self._cache.insert(key, pickle.dumps(value, -1))


#: What opens a cache by its own interface, by its name; a module's name is also what its first call imports.
RAW: dict[str, Callable[[str], Any]] = {
    "Larder": lambda path: importlib.import_module("larder_cache").Cache(path),
    "dict and lock": lambda path: Locked(),
    "diskcache": lambda path: importlib.import_module("diskcache").Cache(path),
    "d.-community": lambda path: importlib.import_module("diskcache_community").Cache(path),
    "diskcache-rs": lambda path: importlib.import_module("diskcache_rs").Cache(path),
    "pysciqlop-cache": lambda path: importlib.import_module("pysciqlop_cache").Cache(path),
    "foyer-py": Foyer,
}


def raw_caches() -> dict[str, Any]:
    """Caches by their own interfaces; those that aren't installed are said and left out."""
    found: dict[str, Any] = {}
    for name, make in RAW.items():
        try:
            found[name] = make(str(HOME / f"raw-{name}"))
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
        for turn in range(rounds):
            for label, cache in caches.items():
                try:
                    if prepare is not None and turn == 0:
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


def _work(open_cache: Callable[[], Any], seconds: float, out: Any) -> None:
    # Opened here: connections of Django's clients, and SQLite's, don't survive a fork.
    cache, calls, end = open_cache(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for n in range(20):
            cache.get(f"p{n}")
        cache.set(f"p{calls % 20}", VALUES["dict of 10"])
        calls += 21
    out.put(calls)


def rate(open_cache: Callable[[], Any], count: int, seconds: float) -> float:
    """Calls a second of so many processes together, one in 21 of them a set."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    workers = [context.Process(target=_work, args=(open_cache, seconds, out)) for _ in range(count)]
    for worker in workers:
        worker.start()
    calls = sum(out.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    return calls / seconds


def rates(openers: dict[str, Callable[[], Any]]) -> None:
    """A table in Markdown: one process, and four that share a cache."""
    print("\n| calls a second | 1 process | 4 processes |\n|---|---|---|")
    for name, opener in openers.items():
        try:
            print(f"| {name} | {rate(opener, 1, 1.0):,.0f} | {rate(opener, 4, 1.0):,.0f} |")
        except Exception as why:  # noqa: BLE001
            print(f"bench: {name}: {why!r}", file=sys.stderr)


FIRST = """
import sys, time
sys.path.insert(0, {here!r})
from bench import HOME, RAW
HOME.rmdir()  # its own; the caches are in the one that it is given
opener = RAW[sys.argv[1]]
opener(sys.argv[2] + "-other")  # what is imported at the first use isn't counted
start = time.perf_counter()
opener(sys.argv[2]).get("k")
print((time.perf_counter() - start) * 1e3)
"""


def first_call(name: str) -> float:
    """Milliseconds for opening a cache that is there, and a first get."""
    command = [sys.executable, "-c", FIRST.format(here=str(Path(__file__).parent)), name, str(HOME / f"raw-{name}")]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(5))


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
    persistent = {"FileBased", "Redis", "Memcached", "diskcache", "d.-community", "diskcache-rs", "pysciqlop-cache"}
    behind = [
        f"{name} of {rival}"
        for table in (api, raw)
        for name, row in table.items()
        for rival, figure in row.items()
        if rival in persistent and "Larder" in row and figure < row["Larder"]
    ]
    print("\nBehind a rival that processes share: " + (", ".join(behind) or "in nothing"))


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    # Shorter than what the scheduler gives a process at a time, so that some rounds are undisturbed on a busy machine.
    rounds, seconds = (10, 0.002) if arguments.parse_args().quick else (80, 0.002)
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
        rates({alias: functools.partial(caches.create_connection, alias) for alias in opened if alias != "LocMem"})
        raw = raw_caches()
        wanted = {name: op for name, op in operations().items() if not name.endswith("(100)") and name != "incr"}
        print("\nRaw, without Django:\n")
        found = measure(raw, wanted, rounds, seconds)
        show(found, list(raw))
        shared = [name for name in raw if name not in ("dict and lock", "foyer-py")]
        rates({name: functools.partial(RAW[name], str(HOME / f"raw-{name}")) for name in shared})
        print("\nOpening and the first get: " + ", ".join(f"{name} {first_call(name):.1f} ms" for name in shared))
        gates(api, found)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(HOME, ignore_errors=True)
