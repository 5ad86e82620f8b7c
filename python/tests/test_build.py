"""What the package says of the interpreters that it can't serve."""

from __future__ import annotations

import importlib.util
import sysconfig

import pytest

from larder_cache import _build


def test_a_free_threaded_build_is_told_why_the_wheel_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: 1)
    _build.check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="free-threaded"):
        _build.check()
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: 0)
    _build.check()
