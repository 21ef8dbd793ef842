"""The barrier: which requests a mode waits for, and that later ones never keep it waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lbagent.model.intent import Mode
from lbagent.model.observed import Stream
from lbagent.rules.barrier import of_keys, refused, still
from tests.lab.model_haproxy import examples

OPTIONS, GET, HEAD, POST, PUT, UNKNOWN = 0, 1, 2, 3, 4, -1


def held_up(streams, keys, mode):
    return refused(of_keys(streams, keys), mode)


REQUEST = Stream(100, "7[x]", "nova", "public", POST, "ctl1", "0x1", "10.0.0.5")


@pytest.mark.parametrize("method", [OPTIONS, GET, HEAD])
def test_what_only_reads_holds_up_down_and_not_read_only(method: int) -> None:
    request = replace(REQUEST, method=method)
    assert held_up([request], ["nova"], Mode.DOWN)
    assert not held_up([request], ["nova"], Mode.READ_ONLY)


def test_a_websocket_may_write_though_it_began_as_a_get() -> None:
    began = replace(REQUEST, method=GET)
    assert not held_up([began], ["nova"], Mode.READ_ONLY)
    later = still(of_keys([began], ["nova"]), [replace(began, upgraded=True)])
    assert refused(later, Mode.READ_ONLY)


@pytest.mark.parametrize("method", [POST, PUT, 8, UNKNOWN])
def test_what_may_write_holds_up_both(method: int) -> None:
    request = replace(REQUEST, method=method)
    assert held_up([request], ["nova"], Mode.DOWN)
    assert held_up([request], ["nova"], Mode.READ_ONLY)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("nova", True),
        ("nova_api", False),
        ("public/nova", True),
        ("internal/nova", False),
        ("public/nova_api", False),
        ("public@10.0.0.5/nova", True),
        ("public@10.0.0.6/nova", False),
        ("internal@10.0.0.5/nova", False),
    ],
)
def test_only_requests_of_the_services_own_keys_count(key: str, expected: bool) -> None:
    assert bool(held_up([REQUEST], [key], Mode.DOWN)) is expected
    assert bool(held_up([REQUEST], ["other", key], Mode.DOWN)) is expected


def test_a_request_whose_address_is_not_known_counts() -> None:
    assert held_up([replace(REQUEST, address="")], ["public@10.0.0.6/nova"], Mode.DOWN)


def test_it_is_down_to_nothing_once_they_have_ended() -> None:
    held = held_up([REQUEST, replace(REQUEST, id="8[x]")], ["nova"], Mode.DOWN)
    assert len(held) == 2
    assert list(still(held, [REQUEST]).values()) == [REQUEST]
    assert still(held, []) == {}


@pytest.mark.parametrize("later", [{"id": "8[x]"}, {"id": "7[y]"}, {"pid": 101}, {"method": GET}])
def test_a_later_request_does_not_keep_it_waiting(later: dict[str, object]) -> None:
    """On a kept-alive connection, in another worker, or with an id that a new worker gives again."""
    held = held_up([REQUEST], ["nova"], Mode.DOWN)
    assert still(held, [replace(REQUEST, **later)]) == {}


def test_the_same_request_with_another_server_is_the_same_request() -> None:
    """HAProxy sends a request to another server when the first does not take it."""
    held = held_up([REQUEST], ["nova"], Mode.DOWN)
    assert still(held, [replace(REQUEST, server="ctl2", pointer="0x2")]).keys() == held.keys()


STREAMS = st.lists(
    st.builds(
        Stream,
        st.sampled_from((99, 100)),
        st.sampled_from("123"),
        st.sampled_from(("nova", "keystone", "")),
        st.sampled_from(("public", "internal")),
        st.integers(-1, 4),
        st.just("ctl1"),
        st.just("0x1"),
    ),
    max_size=6,
)


@examples(100)
@given(STREAMS, st.lists(STREAMS, max_size=4), st.sampled_from((Mode.DOWN, Mode.READ_ONLY)))
def test_the_barrier_only_ever_shrinks(first: list[Stream], later: list[list[Stream]], mode: Mode) -> None:
    held = held_up(first, ["public/nova"], mode)
    assert all(s.backend == "nova" and s.frontend == "public" for s in held.values())
    for streams in later:
        left = still(held, streams)
        assert left.keys() <= held.keys()
        held = left
