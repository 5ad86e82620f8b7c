"""What can be stored, and that it comes back as what it was."""

from __future__ import annotations

import collections
import enum
import json
import math
import pickle
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from larder_cache import Cache

KEY = b"a key that is long enough"

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    7**5000,
    0.0,
    -1.5,
    math.inf,
    "",
    "text",
    "ключ \U0001f511",
    "lone \ud800 surrogate",
    b"",
    b"\x00\xff",
    [],
    [1, "two", [3.0, None]],
    (),
    (1, (2, (3,))),
    {},
    {"a": 1, 2: "b", (3, 4): [5], None: {}},
    set(),
    {1, "a", (2, 3)},
    frozenset({1, frozenset({2})}),
    date(2026, 2, 28),
    datetime(2026, 11, 29, 12, 30, 59, 999_999),
    datetime(2026, 11, 29, tzinfo=timezone.utc),
    datetime(2026, 11, 29, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    time(1, 2, 3, 4),
    time(1, tzinfo=timezone.utc),
    timedelta(days=-3, seconds=5, microseconds=7),
    Decimal("1.10"),
    Decimal("-Infinity"),
    Decimal("1E+999999"),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
]


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down: ``True`` is no ``1`` here."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, datetime):
        return a == b and a.fold == b.fold and a.tzinfo == b.tzinfo
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_what_it_was(cache: Cache[Any], value: Any) -> None:
    cache.set("k", value)
    assert same(cache.get("k", "nothing"), value)
    cache.set("k", [value])
    assert same(cache.get("k"), [value])


def test_values_come_back_the_same_on_every_store(store: Cache[Any]) -> None:
    for n, value in enumerate(VALUES):
        store.set(f"k{n}", value)
    for n, value in enumerate(VALUES):
        assert same(store.get(f"k{n}", "nothing"), value), (store.store, value)


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(timezone.utc))
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
)
hashable = st.recursive(
    plain.filter(lambda value: value == value), lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=5
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(hashable, inner) | st.sets(hashable),
    max_leaves=20,
)


@given(values)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_native_value_comes_back(cache: Cache[Any], value: Any) -> None:
    cache.set("k", value)
    found = cache.get("k", "nothing")
    if type(value) in (set, frozenset):
        assert found == value
    else:
        assert same(found, value)


class Number(int):
    pass


class Point(NamedTuple):
    x: int


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value", [Number(1), Point(1), Colour.RED, object(), collections.OrderedDict(a=1), 1j, lambda: None, [object()]]
)
def test_what_cannot_come_back_as_it_was_is_a_type_error_that_names_the_way_out(cache: Cache[Any], value: Any) -> None:
    with pytest.raises(TypeError, match="serializer"):
        cache.set("k", value)
    assert "k" not in cache


def test_a_cycle_is_an_error_and_no_endless_loop(cache: Cache[Any]) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="deep"):
        cache.set("k", cycle)


def test_bytearray_and_memoryview_are_bytes(cache: Cache[Any]) -> None:
    cache.set("k", bytearray(b"abc"))
    assert cache.get("k") == b"abc"


def test_rust_and_the_shell_read_strings_bytes_numbers_and_json(tmp_path: Path) -> None:
    cache = Cache[Any](tmp_path / "cache", compression="none", serializer="json")
    for key, value in {"s": "grüße", "b": b"\x01", "n": 42, "j": {"a": [1, 2]}}.items():
        cache.set(key, value)
    raw = {key: reader.read() for key in "sbnj" if (reader := cache.reader(key))}
    assert raw == {"s": "grüße".encode(), "b": b"\x01", "n": b"42", "j": b'{"a":[1,2]}'}


# Serializers.


def test_json_keeps_to_what_json_has(tmp_path: Path) -> None:
    cache = Cache[Any](tmp_path / "cache", serializer="json")
    cache.set("k", {"a": (1, 2), "ü": None})
    assert cache.get("k") == {"a": [1, 2], "ü": None}
    with pytest.raises(TypeError):
        cache.set("k", {"a": {1}})


def test_msgpack(tmp_path: Path) -> None:
    pytest.importorskip("msgpack")
    cache = Cache[Any](tmp_path / "cache", serializer="msgpack")
    cache.set("k", {"a": [1, b"x"], 5: None})
    assert cache.get("k") == {"a": [1, b"x"], 5: None}


class Upper:
    """A serializer of one's own."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).upper().encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


def test_an_object_with_dumps_and_loads(tmp_path: Path) -> None:
    cache = Cache[Any](tmp_path / "cache", serializer=Upper())
    cache.set("k", ["a"])
    assert cache.get("k") == ["A"]
    assert Cache[Any](tmp_path / "cache").get("k", "miss") == "miss", "without the object its bytes are a miss"


class Planted:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return (_ran, ())


def _ran() -> str:
    Planted.ran = True
    return "planted"


def test_pickle_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle_key"):
        Cache(tmp_path / "cache", serializer="pickle")
    with pytest.raises(ValueError, match="16"):
        Cache(tmp_path / "cache", serializer="pickle", pickle_key=b"short")


def test_a_pickle_is_loaded_with_its_key_and_by_no_other(tmp_path: Path) -> None:
    where, key, other = tmp_path / "cache", b"k" * 32, b"o" * 32
    cache = Cache[Any](where, serializer="pickle", pickle_key=key)
    cache.set("k", Point(3))
    cache.set("code", Planted())
    assert cache.get("k") == Point(3)
    for stranger in [Cache[Any](where), Cache[Any](where, serializer="pickle", pickle_key=other)]:
        assert stranger.get("k", "miss") == "miss"
        assert stranger.get("code", "miss") == "miss"
    assert not Planted.ran
    rotated = Cache[Any](where, serializer="pickle", pickle_key=[other, key])
    assert rotated.get("k") == Point(3), "the old key opens what it sealed"
    rotated.set("k", Point(4))
    assert cache.get("k", "miss") == "miss", "the new one seals"


def test_a_sealed_pickle_is_good_for_its_own_entry_alone(tmp_path: Path) -> None:
    """Whoever can write the directory could put one user's session in another's place."""
    cache = Cache[Any](tmp_path / "cache", serializer="pickle", pickle_key=KEY, compression="none")
    cache.set("mine", Point(1))
    sealed = cache.reader("mine").read()  # type: ignore[union-attr]
    codec = 19
    cache._plant("yours", sealed, codec)
    assert cache.get("yours", "miss") == "miss"
    cache._plant("mine", sealed, codec)
    assert cache.get("mine") == Point(1), "where it was sealed for it is good"
    cache.namespace("n")._plant("mine", sealed, codec)
    assert cache.namespace("n").get("mine", "miss") == "miss"


@pytest.mark.parametrize("codec", [1, 2, 3, 4, 17, 18, 19, 20, 99])
@pytest.mark.parametrize("data", [b"", b"\xff", b"\x0a\x01\x08\x00\x00", pickle.dumps(Planted()), b"\x08" * 500, b"\x04\xff"])
def test_bytes_that_are_no_value_are_a_miss(tmp_path: Path, codec: int, data: bytes) -> None:
    cache = Cache[Any](tmp_path / "cache", serializer="pickle", pickle_key=KEY)
    cache._plant("k", data, codec)
    found = cache.get("k", "miss")
    # Some are what the codec's own rules make of them: any UTF-8 is text, 0xff is MessagePack for -1.
    assert found == "miss" or (codec == 4 and found == data.decode()) or (codec == 18 and found == -1), found
    assert cache.get_many(["k"]) in ({}, {"k": cache.get("k")})
    assert not Planted.ran


@given(st.binary(max_size=60))
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_make_the_decoder_fail(cache: Cache[Any], data: bytes) -> None:
    cache._plant("k", data, 17)
    cache.get("k")


@given(values, st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_flipped_byte_makes_the_decoder_fail(cache: Cache[Any], value: Any, at: int, byte: int) -> None:
    cache.set("k", [value])
    data = bytearray(cache.reader("k").read())  # type: ignore[union-attr]
    data[at % len(data)] ^= byte
    cache._plant("k", bytes(data), 17)
    cache.get("k")
