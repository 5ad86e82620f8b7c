"""A worker for the Python peers; speaks the same lines as src/worker.rs. Arguments: peer, directory, bytes, processes."""

import json
import os
import random
import sys
from time import perf_counter_ns

peer, directory, size, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
MANY = 1 << 40


class DiskCache:
    def __init__(self, place, limit):
        import diskcache

        # Without a limit: nothing is evicted. With one: about so many values' bytes.
        self.cache = diskcache.Cache(place, size_limit=limit * size if limit else MANY)
        self.get = self.cache.get
        self.set = lambda key, value: self.cache.set(key, value, expire=3600)
        self.delete = self.cache.delete


class Django:
    def __init__(self, place, limit):
        from django.conf import settings

        if not settings.configured:
            settings.configure()
        from django.core.cache.backends.filebased import FileBasedCache

        self.cache = FileBasedCache(place, {"TIMEOUT": 3600, "OPTIONS": {"MAX_ENTRIES": limit or MANY}})
        self.get = self.cache.get
        self.set = self.cache.set
        self.delete = self.cache.delete


def version():
    if peer == "diskcache":
        import diskcache

        return diskcache.__version__
    import django
    import django.core.cache.backends.filebased

    return django.__version__


random.seed(1)
body = random.randbytes(size)
serial = os.getpid() << 32


def key_of(number):
    return "user:%010d:page" % number


def mark(number):
    return (number ^ (number >> 8) ^ (number >> 16)) & 255


def value_of(number):
    global serial
    serial += 1
    head = serial.to_bytes(8, "little") + number.to_bytes(4, "little")
    return head + body[12:-1] + bytes([mark(number)])


def check(value, number):
    if value is None:
        raise ValueError("a key that was set is gone")
    if len(value) != size or value[-1] != mark(number):
        raise ValueError("a get returned something else than was set")


def timed(store, op, numbers):
    """Nanoseconds of each operation."""
    taken = []
    for number in numbers:
        key = key_of(number)
        if op in ("get", "miss"):
            start = perf_counter_ns()
            value = store.get(key)
            taken.append(perf_counter_ns() - start)
            if op == "get":
                check(value, number)
            elif value is not None:
                raise ValueError("a key that was never set is there")
        elif op == "delete":
            start = perf_counter_ns()
            gone = store.delete(key)
            taken.append(perf_counter_ns() - start)
            if not gone:
                raise ValueError("a key that was set is gone")
        else:
            value = value_of(number)
            start = perf_counter_ns()
            store.set(key, value)
            taken.append(perf_counter_ns() - start)
    for number in numbers[:10]:
        if op in ("new", "over"):
            check(store.get(key_of(number)), number)
        elif op == "delete" and store.get(key_of(number)) is not None:
            raise ValueError("a key that was removed is there")
    return taken


def main():
    if directory == "version":
        print(version())
        return
    stores, job = {}, None
    for line in sys.stdin:
        command, answer = json.loads(line), {"ns": []}
        try:
            if command["do"] == "fill":
                limit = command["limit"]
                make = DiskCache if peer == "diskcache" else Django
                store = stores[limit is not None] = make(os.path.join(directory, command["dir"]), limit)
                for number in command["ids"]:
                    store.set(key_of(number), value_of(number))
            elif command["do"] == "prepare":
                job = command
            else:
                answer["ns"] = timed(stores[job["op"] == "full"], job["op"], job["ids"])
        except Exception as error:
            answer["error"] = "%s: %s" % (type(error).__name__, error)
        print(json.dumps(answer), flush=True)


main()
