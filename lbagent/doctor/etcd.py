"""Doctor on etcd: every endpoint by itself."""

from __future__ import annotations

import asyncio

import msgspec

from lbagent.doctor.finding import Finding
from lbagent.errors import StoreError
from lbagent.settings.config import Config


def etcd(config: Config) -> list[Finding]:
    """Every endpoint by itself: failover hides one that is wrong until it is needed."""
    if config.store.etcd is None:
        return []
    from lbagent.store.etcd.store import EtcdStore  # noqa: PLC0415 requests takes its time, and one HAProxy alone needs none of it

    findings = []
    for endpoint in config.store.etcd.endpoints:
        only = msgspec.structs.replace(config.store.etcd, endpoints=(endpoint,))
        store = EtcdStore(only, config.node)
        try:
            view = asyncio.run(store.look())
        except StoreError as error:
            mend = "look whether that member runs and can be reached, and store.etcd.ca, cert, key and user are right"
            findings.append(Finding("wrong", "etcd", error.message, mend))
            continue
        finally:
            store.close()
        revision = view.intent.revision if view.intent else "none"
        away = sorted(set(view.known()) - view.alive)
        findings.append(Finding("ok", "etcd", f"{endpoint}: shared intent {revision}, {len(view.known())} agents"))
        if away and len(findings) == 1:
            mend = "start them: until then commands end with 7. A node that is gone for good: `lbctl forget NODE`"
            findings.append(Finding("warning", "agents", f"away: {', '.join(away)}", mend))
    return findings
