"""Write every file that is not what the program says. ``--check`` only names them, and ends with 1."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate import example, man_pages, pages

ROOT = Path(__file__).parents[2]
FILES: dict[str, Callable[[], str]] = {
    "docs/reference/lbctl.md": pages.lbctl_page,
    "docs/reference/configuration.md": pages.configuration_page,
    "docs/reference/codes.md": pages.codes_page,
    "docs/reference/http.md": pages.http_page,
    "docs/reference/status.md": pages.status_page,
    "docs/reference/metrics.md": pages.metrics_page,
    "docs/man/lbctl.1": man_pages.lbctl_man,
    "docs/man/lbagent.8": man_pages.lbagent_man,
    "haproxy/lbagent.yaml": example.example_configuration,
}


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    for name, write in FILES.items():
        path, text = ROOT / name, write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not what the program says; run make docs' if check else 'written'}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
