"""Fragments of templates, and whole pages: one request computes, the others wait."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.template import Context, Engine, TemplateSyntaxError
from django.test import AsyncClient, Client

from larder_cache.django import LarderCache, larder_cached_property

sys.path.insert(0, str(Path(__file__).parent))
import site_urls  # noqa: E402


@pytest.fixture(autouse=True)
def empty(cache: LarderCache) -> Iterator[None]:
    site_urls.calls.clear()
    yield


def at_once(count: int, call: Any) -> list[Any]:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_page_is_computed_once_for_all_who_ask_at_once() -> None:
    found = at_once(6, lambda: Client().get("/page/").content)
    assert found == [b"page for nobody"] * 6
    assert site_urls.calls == ["/page/"]
    response = Client().get("/page/")
    assert response["Cache-Control"] == "max-age=60" and response["Expires"]
    assert site_urls.calls == ["/page/"]


def test_pages_vary_as_their_header_says() -> None:
    for who in ["ann", "bob", "ann", "bob"]:
        assert Client().get("/page/", headers={"x-who": who}).content == f"page for {who}".encode()
    assert len(site_urls.calls) == 2


def test_tags_invalidate_pages() -> None:
    Client().get("/page/"), Client().get("/page/")
    caches["default"].invalidate_tag("/page/")
    Client().get("/page/")
    assert len(site_urls.calls) == 2


def test_what_is_not_to_be_cached_is_not() -> None:
    for name in ["private", "missing"]:
        for _ in range(2):
            Client().get(f"/{name}/")
    Client().post("/page/"), Client().post("/page/")
    assert site_urls.calls == ["/private/"] * 2 + ["/missing/"] * 2 + ["/page/"] * 2


def test_requests_that_waited_for_a_page_that_is_not_cached_get_their_own() -> None:
    assert at_once(4, lambda: Client().get("/private/").content) == [b"secret"] * 4
    assert site_urls.calls == ["/private/"] * 4


def test_what_a_view_raises_is_raised() -> None:
    for _ in range(2):
        with pytest.raises(LookupError):
            Client().get("/failing/")


def test_an_asynchronous_view() -> None:
    async def main() -> None:
        for _ in range(3):
            assert (await AsyncClient().get("/asynchronous/")).content == b"async"

    asyncio.run(main())
    assert site_urls.calls == ["/asynchronous/"]


# Fragments.

ENGINE = Engine(libraries={"larder": "larder_cache.django.templatetags.larder"}, builtins=["larder_cache.django.templatetags.larder"])


class Counted:
    """Something whose rendering is counted."""

    calls = 0

    def __str__(self) -> str:
        type(self).calls += 1
        return "<b>"


def render(text: str, **context: Any) -> str:
    return ENGINE.from_string(text).render(Context(context))


def test_a_fragment_is_rendered_once() -> None:
    Counted.calls = 0
    for user in [1, 1, 2]:
        text = "{% larder_cache 60 sidebar user tags=tags %}{{ thing }}{% endlarder_cache %}"
        assert render(text, user=user, thing=Counted(), tags=["t"]) == "&lt;b&gt;"
    assert Counted.calls == 2
    caches["default"].invalidate_tag("t")
    render("{% larder_cache 60 sidebar user %}{{ thing }}{% endlarder_cache %}", user=1, thing=Counted())
    assert Counted.calls == 3


@pytest.mark.parametrize(
    "text, why",
    [
        ("{% larder_cache 60 %}{% endlarder_cache %}", "a name"),
        ("{% larder_cache absent x %}{% endlarder_cache %}", "number"),
        ("{% larder_cache 'soon' x %}{% endlarder_cache %}", "number"),
        ("{% larder_cache 60 x using='absent' %}{% endlarder_cache %}", "absent"),
        ("{% larder_cache 60 x colour=1 %}{% endlarder_cache %}", "colour"),
    ],
)
def test_a_wrong_tag_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(TemplateSyntaxError, match=why):
        render(text)


class Article:
    """As far as the property is concerned, a model's instance."""

    computed = 0

    def __init__(self, pk: int | None) -> None:
        self.pk = pk

    @larder_cached_property(60, tags=lambda article: [f"article:{article.pk}"])
    def rendered(self) -> str:
        """As HTML."""
        Article.computed += 1
        return f"<h1>{self.pk}, {Article.computed}</h1>"


def test_a_property_is_computed_once_for_all_instances(cache: LarderCache) -> None:
    Article.computed = 0
    first = Article(1)
    assert [first.rendered, first.rendered, Article(1).rendered] == ["<h1>1, 1</h1>"] * 3
    assert Article(2).rendered == "<h1>2, 2</h1>"
    cache.invalidate_tag("article:1")
    assert (first.rendered, Article(1).rendered) == ("<h1>1, 1</h1>", "<h1>1, 3</h1>"), "an instance keeps its own"
    Article.rendered.forget(first)
    assert first.rendered == "<h1>1, 4</h1>"
    assert [Article(None).rendered for _ in range(2)] == ["<h1>None, 5</h1>", "<h1>None, 6</h1>"], "unsaved ones share none"
    assert Article.rendered.__doc__ == "As HTML."
    with pytest.raises(TypeError, match="timeout first"):
        type("Wrong", (), {"pk": 1, "rendered": larder_cached_property(lambda self: 1)})().rendered  # type: ignore[arg-type]
