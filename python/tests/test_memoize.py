"""Memoized functions."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from larder_cache import Cache


def test_it_computes_once_for_the_same_arguments(cache: Cache[Any]) -> None:
    calls: list[Any] = []

    @cache.memoize(ttl=60)
    def add(a: int, b: int = 2, *rest: int, **named: int) -> list[int]:
        """Adds."""
        calls.append((a, b))
        return [a + b + sum(rest) + sum(named.values())]

    assert [add(1), add(1, 2), add(a=1), add(b=2, a=1)] == [[3]] * 4, "one key, however it is said"
    assert calls == [(1, 2)]
    assert add(1, 2, 3) == [6]
    assert add(1, x=1, y=2) == add(1, y=2, x=1) == [6]
    assert len(calls) == 3
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert add.cache_info() == (4, 3)  # type: ignore[attr-defined]


def test_other_types_are_other_arguments(cache: Cache[Any]) -> None:
    kind = cache.memoize(lambda x: type(x).__name__)
    assert [kind(1), kind(1.0), kind(True), kind("1"), kind(b"1")] == ["int", "float", "bool", "str", "bytes"]


def test_equal_sets_are_one_key(cache: Cache[Any]) -> None:
    calls: list[Any] = []

    @cache.memoize
    def count(names: set[str]) -> int:
        calls.append(names)
        return len(names)

    names = [f"n{n}" for n in range(100)]
    assert count(set(names)) == count(set(reversed(names))) == 100
    assert len(calls) == 1


def test_clearing_forgetting_refreshing_and_bypassing(cache: Cache[Any]) -> None:
    calls: list[int] = []

    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    memo: Any = cache.memoize(double)
    other: Any = cache.memoize(double, name="other")
    assert [memo(1), memo(1), memo(2), other(1)] == [2, 2, 4, 2]
    assert calls == [1, 2, 1]
    assert memo.__wrapped__(1) == 2, "bypassed"
    assert memo.refresh(1) == 2
    assert calls == [1, 2, 1, 1, 1]
    assert memo.forget(1) is True
    assert memo.forget(1) is False
    memo.cache_clear()
    memo(2)
    other(1)
    assert calls == [1, 2, 1, 1, 1, 2], "clearing one leaves the other"


def test_arguments_that_make_no_key(cache: Cache[Any]) -> None:
    class Session:
        pass

    with pytest.raises(TypeError, match="ignore"):
        cache.memoize(lambda session: 1)(Session())
    fetch = cache.memoize(ignore=["session"])(lambda session, n: n)
    assert fetch(Session(), 5) == 5
    assert cache.memoize(key=lambda session: "k")(lambda session: 6)(Session()) == 6
    with pytest.raises(TypeError, match="no parameter"):
        cache.memoize(ignore=["absent"])(lambda n: n)


def test_a_function_that_fails_is_called_again(cache: Cache[Any]) -> None:
    calls: list[int] = []

    @cache.memoize
    def fail() -> None:
        calls.append(1)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            fail()
    assert calls == [1, 1]


def test_tags_invalidate_calls(cache: Cache[Any]) -> None:
    calls: list[int] = []

    @cache.memoize(tags=["prices"])
    def price() -> int:
        calls.append(1)
        return 5

    price(), price()
    cache.invalidate_tag("prices")
    price()
    assert calls == [1, 1]


def test_of_many_threads_one_calls(cache: Cache[Any]) -> None:
    calls: list[int] = []

    @cache.memoize
    def slow() -> int:
        calls.append(1)
        time.sleep(0.1)
        return 1

    threads = [threading.Thread(target=slow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert slow.cache_info() == (7, 1)  # type: ignore[attr-defined]


def test_coroutine_functions(cache: Cache[Any]) -> None:
    calls: list[int] = []

    @cache.memoize(ttl=60)
    async def slow(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0.05)
        return n

    async def main() -> None:
        assert await asyncio.gather(*(slow(1) for _ in range(50)), slow(2)) == [1] * 50 + [2]
        assert await slow(1) == 1
        assert sorted(calls) == [1, 2]
        assert await slow.refresh(1) == 1  # type: ignore[attr-defined]
        assert await slow.forget(1) is True  # type: ignore[attr-defined]

    asyncio.run(main())


def test_results_outlive_the_process(tmp_path: Path) -> None:
    def once(n: int) -> int:
        return n

    assert Cache[Any](tmp_path / "cache").memoize(name="f")(once)(1) == 1
    again: Any = Cache[Any](tmp_path / "cache").memoize(name="f")(lambda n: pytest.fail("called again"))
    assert again(1) == 1
