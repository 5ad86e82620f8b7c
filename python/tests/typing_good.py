"""What a type checker must accept, and what types it must see."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from typing_extensions import assert_type

from larder_cache import NEVER, Cache, Entry, Stats, aio

numbers: Cache[int] = Cache("/tmp/numbers", max_bytes="64MiB")
assert_type(numbers.get("k"), int | None)
assert_type(numbers.get("k", 0), int)
assert_type(numbers.get("k", "none"), int | str)
assert_type(numbers["k"], int)
assert_type(numbers.pop("k"), int | None)
assert_type(numbers.get_or_set("k", lambda: 5), int)
assert_type(numbers.namespace("n").version(2).get("k"), int | None)
assert_type(numbers.stats(), Stats)
assert_type(numbers.info("k"), Entry | None)
numbers.set("k", 5, NEVER)
numbers.set(b"k", 5, timedelta(seconds=5), tags=["a"], meta={"b": "c"})
numbers["k"] = 5

anything: Cache[Any] = Cache("null://")
anything.set("k", {"a": [1]})


@numbers.memoize(ttl=60)
def square(n: int) -> int:
    return n * n


assert_type(square(3), int)


async def main() -> None:
    cache = await aio.Cache.open("/tmp/numbers")
    await cache.set("k", 1)
    assert_type(await cache.contains("k"), bool)
