"""The booted system of tests/system, for the page about installing."""

from tests.system.test_boot import machine

__all__ = ["machine"]
