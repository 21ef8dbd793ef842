"""Fixtures: a plant of its own for every test that changes something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.plant import Plant


@pytest.fixture
def make_plant() -> Iterator[Callable[..., Plant]]:
    """Makes plants and takes them down again; ``start=False`` leaves the starting to the test."""
    made: list[Plant] = []

    def make(*arguments: Any, start: bool = True, **settings: Any) -> Plant:
        one = Plant(*arguments, **settings)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def plant(make_plant: Callable[..., Plant]) -> Plant:
    return make_plant()
