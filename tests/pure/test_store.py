# ruff: noqa: ASYNC240 a test may look at a small file while nothing else runs
"""The intent on disk: whole or damaged, never something else; and its history."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given

from lbagent import files
from lbagent.errors import Conflict, LbagentError, StoreError
from lbagent.model.intent import Drain, Held, Intent, Mode, ServiceIntent
from lbagent.store.codec import Damaged, decode, encode
from lbagent.store.file import FileStore, sole_user
from lbagent.store.history import KEPT, History
from tests.lab.model_haproxy import NOW, examples, intents

INTENT = (
    Intent(revision=3)
    .with_service(
        "nova", ServiceIntent(mode=Mode.DOWN, start=NOW, until=NOW + 60, reason="é😀\n", by="root", keys=("nova",))
    )
    .with_drain("ctl1", "nova", Drain(servers=(Held(backend="nova", server="ctl1"),)))
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lbagent" / "intent.json"


@pytest.fixture
def store(path: Path) -> FileStore:
    return FileStore(path)


# ------------------------------------------------------------------------------------- read and swap


async def test_what_was_never_stored_is_none_and_not_an_empty_intent(store: FileStore) -> None:
    assert await store.read() is None


async def test_what_is_stored_is_read_back_one_revision_on(store: FileStore, path: Path) -> None:
    stored = await store.swap(3, INTENT)
    assert stored.revision == 4
    assert (stored.services, stored.drains) == (INTENT.services, INTENT.drains)
    assert await store.read() == await FileStore(path).read() == stored


async def test_the_file_is_not_for_everyone_and_nothing_is_left_beside_it(store: FileStore, path: Path) -> None:
    await store.swap(0, INTENT)
    await store.swap(1, INTENT)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["intent.json"]


async def test_what_somebody_else_changed_meanwhile_is_a_conflict_and_stays(store: FileStore, path: Path) -> None:
    await store.swap(0, Intent())
    before = path.read_bytes()
    for expected in (0, 2):
        with pytest.raises(Conflict, match=f"at revision 1, not {expected}"):
            await store.swap(expected, INTENT)
    assert path.read_bytes() == before


async def test_of_many_who_swap_at_once_one_wins(store: FileStore) -> None:
    outcomes = await asyncio.gather(*(store.swap(0, INTENT) for _ in range(5)), return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == ["Conflict"] * 4 + ["Intent"]


async def test_a_disk_that_takes_nothing_leaves_what_was_there(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.swap(0, INTENT)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match="cannot be written, nothing was changed: No space left on device"):
        await store.swap(1, Intent())
    monkeypatch.undo()
    assert (await store.read()).services == INTENT.services  # type: ignore[union-attr]
    assert [p.name for p in path.parent.iterdir()] == ["intent.json"]


# ------------------------------------------------------------------------------------------- damaged

TEXT = encode(INTENT)


@given(intents())
@examples(50)
def test_any_intent_reads_back(intent: Intent) -> None:
    assert decode(encode(intent), "file") == intent


def _whole_or_damaged(text: str) -> None:
    try:
        assert decode(text, "file") == INTENT
    except Damaged as damaged:
        assert "file is damaged (" in damaged.message
        assert "nothing is opened for it" in damaged.message


def test_cut_off_anywhere_it_is_damaged_and_never_another_intent() -> None:
    for length in range(len(TEXT)):
        _whole_or_damaged(TEXT[:length])
    with pytest.raises(Damaged):
        decode("", "file")


def test_with_any_character_altered_likewise() -> None:
    for place in range(len(TEXT)):
        for character in '0x"}, ':
            _whole_or_damaged(TEXT[:place] + character + TEXT[place + 1 :])


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", "5", '"x"', '{"format": 2, "checksum": "", "intent": {}}', "[" * 100_000, '{"format": 1}'],
)
def test_what_is_json_but_no_intent_is_damaged(text: str) -> None:
    with pytest.raises(Damaged):
        decode(text, "file")


def test_an_intent_of_a_newer_lbagent_is_damaged_and_not_half_read() -> None:
    with pytest.raises(Damaged, match="format 2, this lbagent reads 1"):
        decode(TEXT.replace('"format": 1', '"format": 2'), "file")


async def test_a_damaged_file_is_said_to_be_and_left_alone(store: FileStore, path: Path) -> None:
    path.parent.mkdir()
    for content in (TEXT[:-40].encode(), b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(Damaged):
            await store.read()
        assert path.read_bytes() == content


async def test_a_damaged_file_is_kept_beside_when_a_rebuilt_intent_is_stored(store: FileStore, path: Path) -> None:
    path.parent.mkdir()
    path.write_text("damaged")
    stored = await store.swap(7, INTENT)
    assert stored.revision == 8
    assert await store.read() == stored
    assert path.with_name("intent.json.damaged").read_text() == "damaged"


async def test_what_cannot_be_read_is_damaged_and_not_missing(store: FileStore, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(Damaged, match="cannot be read"):
        await store.read()


# -------------------------------------------------------------------------------------------- history


def test_the_history_keeps_the_newest(tmp_path: Path) -> None:
    history = History(tmp_path / "new" / "history.jsonl")
    assert history.read() == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "history.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(2 * KEPT)))
    history.add({"n": 2 * KEPT, "reason": "é\n"})
    entries = history.read()
    assert len(entries) == KEPT
    assert entries[-1] == {"n": 2 * KEPT, "reason": "é\n"}
    assert len((tmp_path / "new" / "history.jsonl").read_text().splitlines()) == KEPT + 1


def test_the_history_is_not_for_everyone(tmp_path: Path) -> None:
    """It has operators' names; one that an earlier version made is narrowed."""
    path = tmp_path / "history.jsonl"
    path.write_text("")
    path.chmod(0o644)
    mask = os.umask(0)
    try:
        History(path).add({"id": "1"})
        assert path.stat().st_mode & 0o777 == 0o640
        path.unlink()
        History(path).add({"id": "2"})
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "map")
    (tmp_path / "list").write_text("a")
    assert files.read_all(tmp_path, ("map", "list", "none")) == {"list": "a"}


def test_a_line_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"n": 1}\n{"n": \n\n{"n": 3}\n')
    assert [entry["n"] for entry in History(path).read()] == [1, 3]


def test_a_history_that_cannot_be_written_fails_no_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    History(tmp_path / "file" / "history.jsonl").add({"n": 1})
    assert "cannot be written" in caplog.text


def test_a_history_that_is_not_text_fails_no_command(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"n": 1}\n\xff\xfe\x00')
    History(path).add({"n": 2})


def test_what_follows_a_torn_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"n": 1}\n{"n": ')
    History(path).add({"n": 3})
    assert [entry["n"] for entry in History(path).read()] == [1, 3]


# ---------------------------------------------------------------------------------------------- files


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "guard.map"
    files.write(path, "one\r\n")
    files.write(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["guard.map"]


def test_only_files_that_are_there_and_are_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\n")
    (tmp_path / "b").write_bytes(b"\xff")
    assert files.read_all(tmp_path, ("a", "b", "c")) == {"a": "one\r\n"}
    assert files.read_all(tmp_path / "none", ("a",)) == {}


def test_errors_are_of_the_store() -> None:
    assert issubclass(Damaged, StoreError)
    assert issubclass(Conflict, LbagentError)
    assert Conflict("x").exit == 3


def test_a_file_is_for_one_agent(path: Path) -> None:
    with sole_user(path):
        with (
            pytest.raises(StoreError, match=r"another lbagent uses .*intent\.json; stop it, or give this one a file"),
            sole_user(path),
        ):
            pass
        with sole_user(path.with_name("other.json")):
            pass
    with sole_user(path):
        pass


def test_a_lock_that_is_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("intent.json.lock").symlink_to(target)
    with pytest.raises(StoreError, match="cannot be opened"), sole_user(path):
        pass
    assert not target.exists()
