#!/usr/bin/env python3
"""What a script finds in its own module, and around it."""
from __future__ import annotations

import os
import sys
from pathlib import Path

seen = sorted(name for name in globals() if name not in ("__builtins__", "__annotations__", "__annotate__"))


def annotated(x: Nothing):  # noqa: F821
    return annotated.__annotations__


count: int = 1
print(seen)
print(__name__, __doc__, __package__, __spec__, __cached__ if "__cached__" in globals() else None)
print(os.path.isabs(__file__), os.path.basename(__file__), os.path.isfile(__file__))
print(sys.argv[1:], os.path.samefile(sys.argv[0], __file__), Path(sys.path[0]) == Path(__file__).parent)
print(annotated(1), annotated.__module__, sys.modules[__name__].annotated is annotated, vars() is globals())
