"""What docs/generate writes is what the program says now, and every link of the manual leads somewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import DOCS, ROOT
from tests.lab.agent import BIN


def test_the_reference_is_what_the_program_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "mkdocs", "build"], capture_output=True, text=True, check=False, cwd=folder)


def test_every_link_leads_somewhere_and_one_that_does_not_is_found(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "docs" / "limits.md").open("a", encoding="utf-8") as page:
        page.write("\n[nowhere](concepts.md#nowhere)\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "#nowhere" in done.stderr


def test_man_pages_are_read_without_a_complaint() -> None:
    for page in sorted((DOCS / "man").iterdir()):
        done = subprocess.run(["man", "--warnings", "--local-file", page], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), page
