"""Whole pages: ``cache_page`` of which one request computes while the others wait."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from django.core.cache import caches
from django.http import HttpRequest, HttpResponse
from django.utils.cache import (
    get_cache_key,
    get_max_age,
    has_vary_header,
    learn_cache_key,
    patch_response_headers,
)

from larder_cache.errors import ComputationFailed


class _NotCached(Exception):
    """Carries a response past the cache."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__("the response isn't one to be cached")
        self.response = response


def larder_cache_page(
    timeout: float,
    *,
    cache: str = "default",
    key_prefix: str = "",
    tags: Iterable[str] | Callable[[HttpRequest], Iterable[str]] = (),
    **how: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for views, as Django's ``cache_page``: GET and HEAD, varied by the response's ``Vary``, for ``timeout``
    seconds. Of all requests that miss at once, in all workers, one runs the view.

    ``tags``: by which the pages can be invalidated, or a function from the request to them. Further keywords are those of
    :meth:`larder_cache.Cache.get_or_set`, such as ``stale_while_revalidate=60``. As with ``cache_page``, responses that
    aren't 200 or 304, stream, are private, or set a cookie that they vary on, are not cached.
    """

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        page = _Page(cache, timeout, key_prefix, tags, how)
        if inspect.iscoroutinefunction(view):

            @functools.wraps(view)
            async def asynchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
                return await page.aserve(request, functools.partial(view, request, *args, **kwargs))

            return asynchronous

        @functools.wraps(view)
        def synchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            return page.serve(request, functools.partial(view, request, *args, **kwargs))

        return synchronous

    return decorate


class _Page:
    def __init__(self, alias: str, timeout: float, key_prefix: str, tags: Any, how: dict[str, Any]) -> None:
        self.alias = alias
        self.timeout = timeout
        self.key_prefix = key_prefix
        self.tags = tags
        self.how = how

    def serve(self, request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return view()
        cache, how = caches[self.alias], self._how(request)

        def compute() -> HttpResponse:
            return self._cachable(request, _rendered(view()))

        try:
            key = get_cache_key(request, self.key_prefix, "GET", cache=cache)
            if key is None:
                # What the page varies on isn't known yet: the first one finds that out for all who wait.
                first: list[HttpResponse] = []

                def learn() -> int:
                    first.append(compute())
                    self._learn(request, first[0])
                    return 1

                cache.get_or_set(self._first(request), learn, 1)
                if first:
                    return first[0]
                key = get_cache_key(request, self.key_prefix, "GET", cache=cache)
                if key is None:
                    return view()
            response: HttpResponse = cache.get_or_set(key, compute, self.timeout, **how)
            return response
        except _NotCached as passed:
            return passed.response
        except ComputationFailed:
            # The request that computed for all had a response that isn't to be cached, or an error: to each its own.
            return view()

    async def aserve(self, request: HttpRequest, view: Callable[[], Any]) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return await view()  # type: ignore[no-any-return]
        cache, how = caches[self.alias], self._how(request)

        async def compute() -> HttpResponse:
            return self._cachable(request, _rendered(await view()))

        try:
            key = get_cache_key(request, self.key_prefix, "GET", cache=cache)
            if key is None:
                response = await compute()
                self._learn(request, response)
                return response
            return await cache.aget_or_set(key, compute, self.timeout, **how)  # type: ignore[no-any-return]
        except _NotCached as passed:
            return passed.response
        except ComputationFailed:
            return await view()  # type: ignore[no-any-return]

    def _how(self, request: HttpRequest) -> dict[str, Any]:
        tags = list(self.tags(request) if callable(self.tags) else self.tags)
        return {**self.how, "tags": tags} if tags else self.how

    def _first(self, request: HttpRequest) -> str:
        # `learn_cache_key` of a response without `Vary` makes a name of the URL.
        return f"larder_cache_page.first.{self.key_prefix}.{hash_of(request)}"

    def _learn(self, request: HttpRequest, response: HttpResponse) -> None:
        cache = caches[self.alias]
        key = learn_cache_key(request, response, self.timeout, self.key_prefix, cache=cache)
        tags = self._how(request).get("tags")
        cache.set(key, response, self.timeout, **({"tags": tags} if tags else {}))

    def _cachable(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """The response with its headers, or the way past the cache."""
        private = "private" in response.get("Cache-Control", ())
        sets_cookie = not request.COOKIES and response.cookies and has_vary_header(response, "Cookie")
        if response.streaming or response.status_code not in (200, 304) or private or sets_cookie:
            raise _NotCached(response)
        if get_max_age(response) == 0 or has_vary_header(response, "*"):
            raise _NotCached(response)
        patch_response_headers(response, int(self.timeout))
        return response


def _rendered(response: HttpResponse) -> HttpResponse:
    render = getattr(response, "render", None)
    return render() if callable(render) and not getattr(response, "is_rendered", True) else response


def hash_of(request: HttpRequest) -> str:
    """A short name for the URL of a request."""
    import hashlib

    return hashlib.sha256(request.build_absolute_uri().encode()).hexdigest()[:32]
