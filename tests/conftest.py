"""Fixtures: a lab of its own for every test that changes something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.one_haproxy import Lab


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Makes labs and takes them down again; ``start=False`` leaves the starting to the test."""
    made: list[Lab] = []

    def make(*arguments: Any, start: bool = True, **settings: Any) -> Lab:
        one = Lab(*arguments, **settings)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()
