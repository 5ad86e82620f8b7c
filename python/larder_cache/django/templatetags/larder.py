"""``{% load larder %}{% larder_cache 500 sidebar request.user.pk %} … {% endlarder_cache %}``"""

from __future__ import annotations

from typing import Any

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.utils import make_template_fragment_key
from django.template import Context, Library, Node, NodeList, TemplateSyntaxError
from django.template.base import FilterExpression, Parser, Token, VariableDoesNotExist, token_kwargs

from larder_cache.django.backend import LarderCache

register = Library()


class FragmentNode(Node):
    """A part of a template whose rendering is cached."""

    def __init__(
        self,
        nodelist: NodeList,
        timeout: FilterExpression,
        name: str,
        vary_on: list[FilterExpression],
        named: dict[str, FilterExpression],
    ) -> None:
        self.nodelist = nodelist
        self.timeout = timeout
        self.name = name
        self.vary_on = vary_on
        self.named = named

    def render(self, context: Context) -> str:
        timeout = self._timeout(context)
        named = {name: value.resolve(context) for name, value in self.named.items()}
        alias = named.pop("using", None) or "default"
        try:
            cache = caches[alias]
        except InvalidCacheBackendError:
            raise TemplateSyntaxError(f"'larder_cache' tag: there is no cache {alias!r}") from None
        if not isinstance(cache, LarderCache):
            raise TemplateSyntaxError(f"'larder_cache' tag: the cache {alias!r} is not a LarderCache")
        key = make_template_fragment_key(self.name, [value.resolve(context) for value in self.vary_on])
        # A plain str is stored as it is, and needs no pickle.
        rendered: str = cache.get_or_set(key, lambda: str.__str__(self.nodelist.render(context)), timeout, **named)
        return rendered

    def _timeout(self, context: Context) -> int | None:
        try:
            timeout = self.timeout.resolve(context)
        except VariableDoesNotExist:
            raise TemplateSyntaxError(f"'larder_cache' tag: no such variable: {self.timeout.var}") from None
        if timeout is None:
            return None
        try:
            return int(timeout)
        except (TypeError, ValueError):
            raise TemplateSyntaxError(f"'larder_cache' tag: a timeout is a number: {timeout!r}") from None


@register.tag("larder_cache")
def larder_cache(parser: Parser, token: Token) -> FragmentNode:
    """Caches a part of a template, and lets one request render it while the others wait.

    As Django's ``cache`` tag: a timeout in seconds, a name, and what the part varies on. By keyword: ``using``, the alias;
    ``tags``, a list of tags by which it can be invalidated; ``stale_while_revalidate``, seconds::

        {% load larder %}
        {% larder_cache 500 sidebar request.user.pk tags=sidebar_tags %} … {% endlarder_cache %}
    """
    nodelist = parser.parse(("endlarder_cache",))
    parser.delete_first_token()
    bits = token.split_contents()
    if len(bits) < 3:
        raise TemplateSyntaxError("'larder_cache' tag needs a timeout and a name")
    positional, named = bits[3:], {}
    first_named = next((at for at, bit in enumerate(positional) if "=" in bit and bit.split("=")[0].isidentifier()), None)
    if first_named is not None:
        rest: list[Any] = positional[first_named:]
        named = token_kwargs(rest, parser)
        if rest:
            raise TemplateSyntaxError("'larder_cache' tag: what it varies on stands before what has a name")
        positional = positional[:first_named]
    unknown = named.keys() - {"using", "tags", "stale_while_revalidate", "stale_if_error"}
    if unknown:
        raise TemplateSyntaxError(f"'larder_cache' tag: there is no {', '.join(sorted(unknown))}")
    vary_on = [parser.compile_filter(bit) for bit in positional]
    return FragmentNode(nodelist, parser.compile_filter(bits[1]), bits[2], vary_on, named)
