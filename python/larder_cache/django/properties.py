"""``cached_property`` whose value all processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

from django.core.cache import caches


class larder_cached_property:  # noqa: N801, named as the decorator that it is
    """A decorator for methods of models, or of anything with a ``pk``: a property that is computed once for all processes.

    ::

        class Article(models.Model):
            @larder_cached_property(600, tags=lambda article: [f"author:{article.author_id}"])
            def rendered(self) -> str: ...

    As with Django's ``cached_property`` the instance keeps the value. The cache has it for ``timeout`` seconds by model,
    name and ``pk``; ``key`` is a function from the instance to what stands for its ``pk``, such as its time of change.
    Further keywords are those of :meth:`larder_cache.Cache.get_or_set`. An instance without a ``pk`` computes for itself.
    """

    def __init__(
        self,
        timeout: float | None,
        *,
        cache: str = "default",
        key: Callable[[Any], Any] | None = None,
        tags: Iterable[str] | Callable[[Any], Iterable[str]] = (),
        **how: Any,
    ) -> None:
        self._timeout = timeout
        self._alias = cache
        self._key = key or (lambda instance: instance.pk)
        self._tags = tags
        self._how = how
        self._function: Callable[[Any], Any] | None = None
        self._name = ""

    def __call__(self, function: Callable[[Any], Any]) -> larder_cached_property:
        """Takes the method that computes."""
        self._function = function
        self._name = function.__name__
        self.__doc__ = function.__doc__
        return self

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> larder_cached_property: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Any: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        function = self._function
        if function is None:
            raise TypeError("larder_cached_property takes a timeout first: @larder_cached_property(600)")
        key = self._of(instance)
        if key is None:
            value = function(instance)
        else:
            tags = list(self._tags(instance) if callable(self._tags) else self._tags)
            how = {**self._how, "tags": tags} if tags else self._how
            value = caches[self._alias].get_or_set(key, lambda: function(instance), self._timeout, **how)
        # Found there before the property from now on, which sets nothing itself.
        instance.__dict__[self._name] = value
        return value

    def forget(self, instance: Any) -> None:
        """Removes the value from the cache and from this instance: ``Article.rendered.forget(article)``."""
        instance.__dict__.pop(self._name, None)
        key = self._of(instance)
        if key is not None:
            caches[self._alias].delete(key)

    def _of(self, instance: Any) -> str | None:
        key = self._key(instance)
        if key is None:
            return None
        meta = getattr(instance, "_meta", None)
        kind = meta.label_lower if meta is not None else f"{type(instance).__module__}.{type(instance).__qualname__}"
        return f"larder_cached_property.{kind}.{self._name}.{key}"
