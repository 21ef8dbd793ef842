"""What each HAProxy of a control plane may be doing about each subject, by the commands so far. Pure.

One whose end is unknown (killed, no answer) leaves both outcomes possible; what is seen once all is quiet settles it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Key = tuple[str, ...]  # ("mode", service) or ("drain", node, service)

STRICT = {"up": 0, "read-only": 1, "down": 2, "ready": 0, "drain": 1}


class Possible:
    def __init__(self, hosts: Iterable[str], services: Iterable[str]) -> None:
        self.hosts, self.services = tuple(hosts), tuple(services)
        self.keys: list[Key] = [("mode", service) for service in self.services]
        self.keys += [("drain", node, service) for node in self.hosts for service in self.services]
        self.may = {(h, k): {"up" if k[0] == "mode" else "ready"} for h in self.hosts for k in self.keys}
        self.apart: dict[Key, set[str]] = {}  # where --local has made a difference that may last

    def accepted(self, key: Key, verb: str) -> None:
        for host in self.hosts:
            self.may[host, key] = {verb}
        self.apart.pop(key, None)

    def doubtful(self, key: Key, verb: str) -> set[tuple[str, Key]]:
        """It may be so from now on, or not; what this has added."""
        added = {(host, key) for host in self.hosts if verb not in self.may[host, key]}
        for place in added:
            self.may[place].add(verb)
        return added

    def refused(self, added: Iterable[tuple[str, Key]], verb: str) -> None:
        for place in added:
            self.may[place].discard(verb)

    def here(self, host: str, key: Key, verb: str) -> None:
        """--local: a restriction becomes everybody's later, if it may; an opening stays where it was asked for."""
        self.apart.setdefault(key, set()).add(host)
        for one in self.hosts if STRICT[verb] else (host,):
            self.may[one, key].add(verb)

    def known_to(self, host: str) -> dict[Key, set[str]]:
        return {key: set(self.may[host, key]) for key in self.keys}

    def comes_back(self, states: Mapping[Key, Iterable[str]]) -> set[Key]:
        """An older intent is about: what it restricts may be restricted again (the stricter wins). Keys that may be."""
        found = set()
        for key, verbs in states.items():
            for place in [(host, key) for host in self.hosts]:
                stricter = {v for v in verbs if STRICT[v] > min(map(STRICT.__getitem__, self.may[place]))}
                if stricter:
                    self.may[place] |= stricter
                    found.add(key)
        return found

    def wrong(self, seen: Mapping[tuple[str, Key], str]) -> list[str]:
        """What cannot be by these commands, and where the HAProxies differ with nobody having asked for it."""
        found = []
        for key in self.keys:
            name = "/".join(key[1:])
            for host in self.hosts:
                if seen[host, key] not in self.may[host, key]:
                    found.append(f"{host}: {name} is {seen[host, key]}, not {' or '.join(sorted(self.may[host, key]))}")
            if key not in self.apart and len({seen[host, key] for host in self.hosts}) > 1:
                found.append(f"{name} differs: {', '.join(f'{h} {seen[h, key]}' for h in self.hosts)}")
        return found

    def settled(self, seen: Mapping[tuple[str, Key], str]) -> None:
        """Where the HAProxies differ by --local, a restriction may yet become everybody's."""
        for key in list(self.apart):
            if len({seen[host, key] for host in self.hosts}) == 1:
                del self.apart[key]
        for (host, key), verb in seen.items():
            if key not in self.apart:
                self.may[host, key] = {verb}

    def possibly_drained(self, service: str) -> set[str]:
        return {n for n in self.hosts if any("drain" in self.may[h, ("drain", n, service)] for h in self.hosts)}
