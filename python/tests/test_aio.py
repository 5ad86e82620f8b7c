"""The asyncio front: the same answers, and nothing that waits on the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import larder_cache
from larder_cache import Cache, aio


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_the_calls(store: Cache[Any]) -> None:
    async def main() -> None:
        async with aio.Cache(store) as cache:
            assert await cache.get("k", 5) == 5
            await cache.set("k", ["v"], 100)
            assert await cache.get("k") == ["v"]
            assert await cache.contains("k")
            ttl = await cache.ttl("k")
            assert ttl is not None and ttl <= 100
            assert await cache.touch("k", 50)
            assert not await cache.add("k", 1)
            assert await cache.replace("k", 2)
            assert await cache.pop("k") == 2
            assert not await cache.delete("k")
            assert await cache.incr("n", initial=1) == 1
            assert await cache.incr("n", 5) == 6
            assert await cache.decr("n") == 5
            assert await cache.set_many({"a": 1, "b": "x" * 100_000}) == {}
            assert await cache.get_many(["a", "b", "c"]) == {"a": 1, "b": "x" * 100_000}
            assert await cache.get("b") == "x" * 100_000
            assert await cache.delete_many(["a", "b", "c"]) == 2
            await cache.set("t", 1, tags=["x"])
            await cache.invalidate_tag("x")
            assert await cache.get("t") is None
            await cache.namespace("ns").set("k", 1)
            assert await cache.incr_version("n") == 2
            assert await cache.version(2).get("n") == 5
            assert (await cache.stats()).sets > 0
            assert await cache.blocking(lambda cache: cache.get("absent", "nothing")) == "nothing"
            await cache.clear()
            assert await cache.namespace("ns").get("k") is None

    run(main())


def test_opening(tmp_path: Path) -> None:
    async def main() -> None:
        cache = await aio.Cache.open(tmp_path / "cache", max_entries=10)
        assert cache.cache.settings()["max_entries"] == 10
        with pytest.raises(larder_cache.InvalidOption):
            await aio.Cache.open(tmp_path / "cache", nosuch=1)

    run(main())


def test_of_many_tasks_one_computes_on_the_loop(store: Cache[Any]) -> None:
    calls: list[Any] = []
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def compute() -> str:
        calls.append((asyncio.get_running_loop(), who.get()))
        await asyncio.sleep(0.05)
        return "v"

    async def main() -> None:
        who.set("me")
        cache = aio.Cache(store)
        assert await asyncio.gather(*(cache.get_or_set("k", compute) for _ in range(200))) == ["v"] * 200
        assert calls == [(asyncio.get_running_loop(), "me")]
        assert await cache.get_or_set("k", compute) == "v"
        assert await cache.get_or_set("plain", 5) == 5
        assert await cache.get_or_set("sync", lambda: 6) == 6

    run(main())


def test_many_keys_that_need_one_another_are_computed(cache: Cache[Any]) -> None:
    """With a pool of threads for computations, forty that wait for a forty-first would wait for ever."""

    async def main() -> None:
        tasks = aio.Cache(cache)

        async def outer() -> Any:
            return await tasks.get_or_set("inner", inner)

        async def inner() -> int:
            await asyncio.sleep(0.05)
            return 1

        assert await asyncio.gather(*(tasks.get_or_set(f"k{n}", outer) for n in range(40))) == [1] * 40

    run(main())


def test_an_error_reaches_all_who_waited(cache: Cache[Any]) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.02)
        raise LookupError("gone")

    async def main() -> None:
        tasks = aio.Cache(cache)
        found = await asyncio.gather(*(tasks.get_or_set("k", fail) for _ in range(5)), return_exceptions=True)
        assert [type(error) for error in found] == [LookupError] * 5
        assert await tasks.get_or_set("k", 1) == 1

    run(main())


def test_a_caller_that_is_cancelled_leaves_the_others_be(cache: Cache[Any]) -> None:
    async def slow() -> int:
        await asyncio.sleep(0.1)
        return 1

    async def main() -> None:
        tasks = aio.Cache(cache)
        first = asyncio.create_task(tasks.get_or_set("k", slow))
        second = asyncio.create_task(tasks.get_or_set("k", slow))
        await asyncio.sleep(0.02)
        first.cancel()
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    run(main())


def test_the_loop_goes_on_while_a_call_waits(tmp_path: Path) -> None:
    """The far store answers nothing for a second; a ticking task must not notice."""

    class Slow:
        def dumps(self, value: Any) -> bytes:
            time.sleep(0.3)
            return b"x"

        def loads(self, data: bytes) -> Any:
            return data

    async def main() -> None:
        cache = aio.Cache(Cache[Any](tmp_path / "cache", serializer=Slow(), layout="files"))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await cache.set("k", [1])
        ticking.cancel()
        assert ticks >= 3

    run(main())
