"""The site's own answers with 503: where one is in force, lbagent's static page stays away. Pure.

HAProxy takes the page of the backend before that of the frontend (http_error_message() in its http_ana.c), so a page
put into a backend would stand in for the site's in a frontend too, and for what a rule of the backend denies with 503.
A page that says what HAProxy says by itself, as Debian's configuration names one for every service, is nobody's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from lbagent.haproxy_cfg.parse import File, Line, Section
from lbagent.haproxy_cfg.routes import leads_to

CONTENT = frozenset({"content-type", "errorfile", "errorfiles", "file", "lf-file", "string", "lf-string"})
"""What gives a rule's answer a body of its own, whatever page is in force."""

RULES = frozenset({"http-request", "http-response", "http-after-response"})
DENIES = frozenset({"deny", "tarpit", "return"})

BUILT_IN = "<html><body><h1>503 Service Unavailable</h1> No server is available to handle this request. </body></html>"

Stock = Callable[[str], bool]
"""Whether the page in this file is no more than HAProxy's built-in one."""


def is_stock(page: bytes) -> bool:
    """Whether an errorfile's answer has the body that HAProxy sends by itself."""
    _, _, body = page.replace(b"\r\n", b"\n").partition(b"\n\n")
    return " ".join(body.decode("utf-8", "replace").split()) == BUILT_IN


def own_503(section: Section, sections: Sequence[Section], files: Sequence[File], stock: Stock) -> str | None:
    """Where the site has a 503 of its own that clients of ``section`` get, as FILE:LINE; None where it has none."""
    frontends = [s for s in sections if s.kind in ("frontend", "listen") and s is not section and s.mode == "http"]
    groups = {s.name: s for s in sections if s.kind == "http-errors"}
    for owner in (section, *(frontend for frontend in frontends if leads_to(frontend, section.name))):
        found = _page_of(owner, groups)
        if found and not (found[1].words[0] == "errorfile" and stock(found[1].words[-1])):
            return f"{files[found[0].file][0]}:{found[1].number + 1}"
    denied = [line for line in section.body if _denies_with_503(line)]
    return f"{files[section.file][0]}:{denied[0].number + 1}" if denied else None


def _page_of(section: Section, groups: dict[str, Section]) -> tuple[Section, Line] | None:
    """The section's line that sets a page for 503, else its defaults'; the last one counts."""
    own = [(section, line) for line in section.body if _sets_503(line, groups)]
    if own or section.parent is None:
        return own[-1] if own else None
    return _page_of(section.parent, groups)


def _sets_503(line: Line, groups: dict[str, Section]) -> bool:
    keyword, *rest = line.words
    match keyword:
        case "errorfile" | "errorloc" | "errorloc302" | "errorloc303":
            return rest[:1] == ["503"]
        case "errorfiles":
            group = groups.get(rest[0]) if rest else None
            return ("503" in rest[1:] or len(rest) == 1) and (group is None or _has_503(group.body))
        case "http-error":
            return rest[:2] == ["status", "503"]
    return False


def _has_503(lines: Iterable[Line]) -> bool:
    return any(line.words[:2] == ("errorfile", "503") for line in lines)


def _denies_with_503(line: Line) -> bool:
    """A rule that answers 503 by the page in force."""
    keyword, *rest = line.words
    if keyword not in RULES or not rest or rest[0] not in DENIES or CONTENT & set(rest):
        return False
    return any(pair in {("deny_status", "503"), ("status", "503")} for pair in pairwise(rest))
