"""Doctor on files: what haproxy.cfg sets, and the state folder."""

from __future__ import annotations

import os
from pathlib import Path

from lbagent.doctor.finding import Finding
from lbagent.guard import file_names
from lbagent.haproxy.instance import FILES
from lbagent.haproxy_cfg import on_disk
from lbagent.haproxy_cfg.reading import Reading
from lbagent.settings.config import Config


def read_configuration(config: Config) -> tuple[Reading | None, list[Finding]]:
    """What HAProxy's configuration files say, None with the reason when they cannot be read."""
    try:
        return on_disk.read_files(config.haproxy.config), []
    except on_disk.Unreadable as error:
        mend = "name the files in haproxy.config, and let lbagent's user read them"
        return None, [Finding("warning", "configuration", str(error), mend)]


def settings(config: Config, reading: Reading) -> list[Finding]:
    findings = []
    ours = f"{config.haproxy.seen_dir}/{file_names.STATE}"
    if reading.state_file == ours:
        findings.append(Finding("ok", "server-state file", ours))
    else:
        mend = "run `lbctl haproxy adopt`, which names it; without it a reload of HAProxy ends every drain"
        findings.append(
            Finding("wrong", "server-state file", reading.state_file or "none is named in the global section", mend)
        )
    if reading.hard_stop_after:
        findings.append(Finding("ok", "hard-stop-after", reading.hard_stop_after))
    else:
        mend = "write `hard-stop-after 30m`, for example, into HAProxy's global section"
        findings.append(
            Finding("note", "hard-stop-after", "not set: a worker that a reload left behind may live for ever", mend)
        )
    return findings


def state_dir(config: Config) -> list[Finding]:
    folder = Path(config.haproxy.state_dir)
    if not folder.is_dir():
        mend = "start lbagent, or run `lbctl haproxy adopt FILE --write`: both make it"
        return [Finding("wrong", "state_dir", f"{folder} does not exist", mend)]
    findings = []
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        mend = "start lbagent, which puts them back within a second; HAProxy cannot start without them"
        findings.append(Finding("wrong", "state_dir", f"missing in {folder}: {', '.join(missing)}", mend))
    closed = [n for n in FILES if (folder / n).is_file() and not (folder / n).stat().st_mode & 0o004]
    if closed or not folder.stat().st_mode & 0o001:
        mend = f"chmod -R o+rX {folder}"
        findings.append(Finding("warning", "state_dir", f"HAProxy may not read {', '.join(closed) or folder}", mend))
    if not os.access(folder, os.W_OK):
        findings.append(Finding("note", "state_dir", f"you may not write to {folder}; the user lbagent has to"))
    return findings or [Finding("ok", "state_dir", f"{folder}, {len(FILES)} files")]
