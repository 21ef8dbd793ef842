"""Tests that start no program."""
