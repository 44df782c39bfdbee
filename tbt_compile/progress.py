"""The callback type through which long-running work reports its progress."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with a line of text for the user and the share of the work that is done, from 0 to 1."""
