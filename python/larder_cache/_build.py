"""Says clearly where the extension can't be loaded."""

from __future__ import annotations

import importlib.util
import sysconfig


def check() -> None:
    """Refuses an interpreter without a GIL, whose ABI the wheel is not for: 'No module named' would say nothing."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") and importlib.util.find_spec("larder_cache._larder") is None:
        raise ImportError(
            "larder_cache is built for and tested with the GIL; this is a free-threaded build of Python. Use the usual "
            "build of it, or build larder_cache from source, which turns the GIL on"
        )


check()
