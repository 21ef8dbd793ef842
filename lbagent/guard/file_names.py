"""The files of state_dir that HAProxy loads: their names."""

from __future__ import annotations

MAP = "guard-v1.map"
ALLOW, DENY, PROBES = "allow-v1.acl", "deny-v1.acl", "probes-v1.acl"
NETWORKS, DIGESTS = "bypass-networks-v1.acl", "bypass-digests-v1.acl"
BODIED, BODIES = "bodied-v1.acl", "bodies-v1.acl"  # requests that their body decides about; bodies that pass
JSON = "json-v1.acl"  # paths that are answered in JSON where the service has pages
LISTS = (ALLOW, DENY, PROBES, BODIED, BODIES, JSON, NETWORKS, DIGESTS)
PAGE, ERRORFILE, STATE = "page-v1.html", "503-v1.http", "servers.state"
UPLOAD = "upload-v1.lua"  # reads what a refused client sends; loaded by HAProxy before 3.0 that has Lua
