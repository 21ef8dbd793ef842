"""Tests with a booted Debian and with systemd."""
