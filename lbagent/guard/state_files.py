"""The files of state_dir that HAProxy loads: what stands in them. Pure."""

from __future__ import annotations

from lbagent.guard.acl_lists import list_text, lists
from lbagent.guard.file_names import ERRORFILE, MAP, PAGE, STATE, UPLOAD
from lbagent.guard.guard_map import entries, map_text
from lbagent.guard.server_state import state_text
from lbagent.model.intent import Intent
from lbagent.settings import shipped
from lbagent.settings.config import Config


def fixed_files(config: Config) -> dict[str, str]:
    """The files of state_dir that no intent changes: name → text."""
    floor = config.retry_after.floor
    errorfile = shipped.text("503.http").replace("@FLOOR@", str(floor))
    return {
        PAGE: shipped.text("page.html").replace("@DIR@", config.haproxy.seen_dir),
        ERRORFILE: errorfile,
        UPLOAD: shipped.text("upload.lua"),
    }


def files_at_rest(config: Config) -> dict[str, str]:
    """Every file that a guarded HAProxy needs at start, for an HAProxy with nothing in maintenance."""
    empty = Intent()
    return (
        fixed_files(config)
        | {MAP: map_text(entries(config, empty)), STATE: state_text({})}
        | {name: list_text(patterns) for name, patterns in lists(config).items()}
    )
