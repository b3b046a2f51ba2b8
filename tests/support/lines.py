"""A count of the lines of the package that run: a measure of its own work that does not depend on the machine."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parareal

HOME = str(Path(parareal.__file__).parent)


def lines_run(function: Callable[[], Any]) -> int:
    """Return the number of lines of `parareal` that a call runs; a line counts each time it runs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(HOME):
            return None  # no tracing within this frame, which keeps the cost low
        if event == "line":
            count += 1
        return trace

    previous = sys.gettrace()  # that of a debugger or a coverage tool
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(previous)
    return count
