"""Doctor on the guard: is it in every backend, of this version, with its files?"""

from __future__ import annotations

from lbagent.doctor.finding import Finding
from lbagent.guard import VERSION, file_names
from lbagent.haproxy_cfg.reading import Reading
from lbagent.model.observed import Observed
from lbagent.settings.config import Config
from lbagent.topology.resolve import Topology


def guards(config: Config, observed: Observed, known: Topology, reading: Reading | None) -> list[Finding]:
    findings = []
    named = " ".join(config.haproxy.config)
    wanted = [b for s in known.services.values() for b in s.http]
    bare = [b for b in wanted if observed.backends[b].guard is None]
    old = [b for b in wanted if (v := observed.backends[b].guard) is not None and v < VERSION]
    written = reading.guards if reading else {}
    unloaded = [b for b in bare if b in written]
    absent = [b for b in bare if b not in written]
    if unloaded:
        mend = "reload HAProxy"
        findings.append(
            Finding("wrong", "guard", f"in the file, but not in the running HAProxy: {', '.join(unloaded)}", mend)
        )
    if absent:
        mend = f"run `lbctl haproxy adopt {named} --write`, then reload HAProxy"
        findings.append(Finding("wrong", "guard", f"missing in {', '.join(absent)}", mend))
    if old:
        mend = f"run `lbctl haproxy adopt {named} --write` and reload HAProxy when it suits you"
        findings.append(Finding("warning", "guard", f"an older version in {', '.join(old)}; it goes on working", mend))
    if wanted and not bare and not old:
        findings.append(Finding("ok", "guard", f"in every backend of every service ({len(wanted)})"))
    if reading is not None and reading.dirs - {config.haproxy.seen_dir}:
        others = ", ".join(sorted(reading.dirs - {config.haproxy.seen_dir}))
        mend = "run `lbctl haproxy adopt` again, or set haproxy.state_dir (or state_dir_in_haproxy) to that folder"
        findings.append(
            Finding("wrong", "guard", f"HAProxy reads {others}, but lbagent writes {config.haproxy.seen_dir}", mend)
        )
    unread = [n for n in file_names.LISTS if n not in observed.lists] + (
        [file_names.MAP] if observed.table is None else []
    )
    if wanted and len(bare) < len(wanted):
        if unread:
            mend = "run `lbctl haproxy adopt` again and reload HAProxy: it loads them by the guard's lines"
            findings.append(Finding("wrong", "maps", f"not loaded: {', '.join(unread)}", mend))
        else:
            findings.append(Finding("ok", "maps", f"the map and {len(file_names.LISTS)} lists are loaded"))
    return findings
