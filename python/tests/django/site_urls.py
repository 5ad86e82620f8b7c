"""The URLs of the tests' project."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from larder_cache.django import larder_cache_page

calls: list[str] = []


@larder_cache_page(60, tags=lambda request: ["pages", request.path])
def page(request: HttpRequest) -> HttpResponse:
    calls.append(request.path)
    time.sleep(0.1)
    response = HttpResponse(f"page for {request.headers.get('X-Who', 'nobody')}")
    response["Vary"] = "X-Who"
    return response


@larder_cache_page(60)
def private(request: HttpRequest) -> HttpResponse:
    calls.append(request.path)
    time.sleep(0.05)
    return HttpResponse("secret", headers={"Cache-Control": "private"})


@larder_cache_page(60)
def missing(request: HttpRequest) -> HttpResponse:
    calls.append(request.path)
    return HttpResponse("no", status=404)


@larder_cache_page(60)
async def asynchronous(request: HttpRequest) -> HttpResponse:
    calls.append(request.path)
    return HttpResponse("async")


def failing(request: HttpRequest) -> HttpResponse:
    raise LookupError


views: list[Callable[..., Any]] = [page, private, missing, asynchronous]
urlpatterns = [path(f"{view.__name__}/", view) for view in views] + [path("failing/", larder_cache_page(60)(failing))]
