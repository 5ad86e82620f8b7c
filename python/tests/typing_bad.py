"""What a type checker must refuse: each line has the error that it must show."""

from __future__ import annotations

from larder_cache import Cache

numbers: Cache[int] = Cache("/tmp/numbers")
numbers.set("k", "text")  # type: ignore[arg-type]
numbers.set(5, 5)  # type: ignore[arg-type]
numbers.set("k", 5, tag=["a"])  # type: ignore[call-arg]
Cache("/tmp/numbers", max_entrys=5)  # type: ignore[call-arg]
Cache("/tmp/numbers", serializer="yaml")  # type: ignore[arg-type]
