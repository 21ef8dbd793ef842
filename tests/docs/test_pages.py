"""What the pages have besides commands: configurations that are right, and a place in the table of contents."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from lbagent.metrics import MEASURES
from lbagent.settings.load import parse
from tests.docs import test_commands
from tests.docs.blocks import DOCS, OURS, Block, blocks, commands, pages

EVERY = [block for page in pages() for block in blocks(page)]
LANGUAGES = {
    "console": "run by test_commands",
    "yaml": "read here",
    "keepalived": "run by tests/several/test_vip.py",
    "ini": "a systemd drop-in",
    "text": "a picture, or names",
}


def named(block: Block) -> str:
    return block.where


def of(language: str) -> list[Block]:
    return [block for block in EVERY if block.language == language]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert [block.where for block in EVERY if block.language not in LANGUAGES] == []


def test_every_page_with_commands_is_run() -> None:
    run = {*test_commands.ONE_HAPROXY, *test_commands.DEPLOYERS, *test_commands.OTHERS}
    assert {block.page for block in of("console")} == run


def test_nothing_is_left_out_that_is_not_there() -> None:
    there = {(block.page, command.typed) for block in of("console") for command in commands(block)}
    assert set(test_commands.ELSEWHERE) <= there


@pytest.mark.parametrize("block", [b for b in of("yaml") if ".rules.yml\n" in b.text], ids=named)
def test_alert_rules_are_right(block: Block, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(block.text)
    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    used = set(re.findall(r"lbagent_\w+", block.text))
    assert used <= {f"lbagent_{measure.name}" for measure in MEASURES}


@pytest.mark.parametrize("block", of("yaml"), ids=named)
def test_a_configuration_is_right(block: Block) -> None:
    if block.text.startswith(OURS):
        parse(block.text, hostname="ctl1")
    else:
        assert isinstance(yaml.safe_load(block.text), dict)


def test_the_architecture_has_the_layers_that_are_checked() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    checked = [layer.replace("lbagent.", "").split(" : ") for layer in contract["layers"]]
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| layer | what it is |")[2].partition("\n\n")[0]
    described = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert described == checked


def test_every_page_is_in_the_table_of_contents() -> None:
    tree = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    written = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    assert [path for path in written if f": {path}" not in tree] == []
