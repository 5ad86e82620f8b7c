"""What goes wrong raises what the documents say: an exception of the package's own that is also the built-in."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import larder_cache
from larder_cache import Cache, Error


def removed(path: Path) -> None:
    cache = Cache[Any](path)
    cache.set("k", 1)
    shutil.rmtree(path)
    # A change looks for its directory every 10 ms.
    time.sleep(0.1)
    cache.set("k", 1)


def with_another_key(path: Path) -> None:
    Cache[Any](path, mac_key=b"a" * 32).set("k", 1)
    Cache[Any](path, mac_key=b"b" * 32).get("k")


def too_large(path: Path) -> None:
    Cache[Any](path, max_bytes="1MiB").set("k", os.urandom(2 << 20))


def read_only(path: Path) -> None:
    Cache[Any](path).set("k", 1)
    Cache[Any](path, read_only=True).set("k", 2)


def not_a_number(path: Path) -> None:
    cache = Cache[Any](path)
    cache.set("k", "text")
    cache.incr("k")


def overflowing(path: Path) -> None:
    cache = Cache[Any](path)
    cache.set("k", 2**63 - 1)
    cache.incr("k")


def failing(path: Path) -> None:
    def fail() -> None:
        raise Error("as told")

    Cache[Any](path).get_or_set("k", fail)


WRONG: list[tuple[Callable[[Path], Any], str, type[BaseException] | None]] = [
    (lambda path: Cache[Any](path).set("", 1), "InvalidKey", ValueError),
    (lambda path: Cache[Any](path, max_entrys=5), "InvalidOption", ValueError),
    (lambda path: Cache[Any](path).incr("absent"), "NotFound", KeyError),
    (not_a_number, "NotANumber", ValueError),
    (not_a_number, "NotANumber", TypeError),
    (overflowing, "Overflow", OverflowError),
    (too_large, "TooLarge", ValueError),
    (read_only, "ReadOnly", PermissionError),
    (removed, "Vanished", FileNotFoundError),
    (with_another_key, "WrongKey", PermissionError),
    (lambda path: Cache[Any]("memory://").verify(), "Unsupported", NotImplementedError),
    (lambda path: Cache[Any](path / "a" / "b", create=False), "Error", None),
    (failing, "Error", None),
]


@pytest.mark.parametrize(("call", "name", "builtin"), WRONG, ids=[f"{name}-{kind}" for _, name, kind in WRONG])
def test_an_error_is_of_its_own_class_and_of_the_built_in(
    call: Callable[[Path], Any], name: str, builtin: type[BaseException] | None, tmp_path: Path
) -> None:
    with pytest.raises(Error) as raised:
        call(tmp_path / "cache")
    assert isinstance(raised.value, getattr(larder_cache, name))
    assert builtin is None or isinstance(raised.value, builtin)
    assert str(raised.value), "it says what is wrong"


def test_an_error_tells_the_path_where_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(Error) as raised:
        read_only(tmp_path / "cache")
    assert raised.value.path == str(tmp_path / "cache") or Path(str(raised.value.path)) == tmp_path / "cache"


def test_those_that_take_a_fault_to_see_are_built_ins_too() -> None:
    assert issubclass(larder_cache.Busy, TimeoutError) and issubclass(larder_cache.Timeout, TimeoutError)
    assert issubclass(larder_cache.Full, OSError) and issubclass(larder_cache.StorageError, OSError)
    assert issubclass(larder_cache.Refused, PermissionError)
