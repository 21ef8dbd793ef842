"""What HAProxy reads: the guard's rules, its map and lists, the answers, the server-state file. Pure.

The rules themselves are data, in ``haproxy/``; these modules fill them in and write what they look up.
Formats are versioned in the file's name: a guard of version 1 reads ``*-v1.*`` for as long as one is in use.
"""

VERSION = 1
"""Of the guard that ``lbctl haproxy adopt`` puts into haproxy.cfg."""
