"""A network of hosts: a bridge, and a network namespace for each host."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess

_numbers = itertools.count(random.randrange(200))


def sh(*words: object, check: bool = True) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


class Network:
    """A bridge of its own, a namespace a host. ``origin`` is where a node's servers listen, on the bridge."""

    def __init__(self, hosts: list[str]) -> None:
        for _ in range(200):
            third = (next(_numbers) * 7 + os.getpid()) % 250
            self.subnet, self.tag = f"10.99.{third}", f"lb{third}"
            if subprocess.run(["ip", "link", "add", f"{self.tag}br", "type", "bridge"], capture_output=True).returncode:  # noqa: PLW1510 taken: the next one
                continue
            break
        self.bridge, self.host = f"{self.tag}br", f"{self.subnet}.254"
        sh("ip", "address", "add", f"{self.host}/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        self.address = {name: f"{self.subnet}.{i + 1}" for i, name in enumerate(hosts)}
        self.vip = f"{self.subnet}.100"
        self.origin = {name: f"{self.subnet}.{200 + i + 1}" for i, name in enumerate(hosts)}
        for address in self.origin.values():
            sh("ip", "address", "add", f"{address}/24", "dev", self.bridge)
        for name in hosts:
            space, inside, outside = self.space(name), self.card(name), self.port(name)
            sh("ip", "netns", "add", space)
            sh("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            sh("ip", "link", "set", inside, "netns", space)
            sh("ip", "link", "set", outside, "master", self.bridge, "up")
            sh("ip", "-n", space, "address", "add", f"{self.address[name]}/24", "dev", inside)
            sh("ip", "-n", space, "link", "set", inside, "up")
            sh("ip", "-n", space, "link", "set", "lo", "up")

    def space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def card(self, name: str) -> str:
        """The host's own end."""
        return f"{self.tag}i{name}"

    def neighbour(self) -> str:
        """The hardware address that clients send to for the virtual address; empty when they would have to ask."""
        rows = json.loads(sh("ip", "-j", "neighbour", "show", self.vip, "dev", self.bridge) or "[]")
        return rows[0].get("lladdr", "") if rows else ""

    def port(self, name: str) -> str:
        """The host's end at the bridge: pull it and the host is cut off."""
        return f"{self.tag}o{name}"

    def inside(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.space(name))

    def cut(self, name: str) -> None:
        sh("ip", "link", "set", self.port(name), "down")

    def heal(self, name: str) -> None:
        sh("ip", "link", "set", self.port(name), "up")

    def close(self) -> None:
        for name in self.address:
            sh("ip", "netns", "delete", self.space(name), check=False)
            sh("ip", "link", "delete", self.port(name), check=False)
        sh("ip", "link", "delete", self.bridge, check=False)
