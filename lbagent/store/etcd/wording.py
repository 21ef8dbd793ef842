"""What went wrong with etcd, in words that name the key of the configuration to look at. Pure."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping

SILENT = "it does not answer in time"
CUT = "it cut the connection: does it ask for https:// (store.etcd.endpoints), or for store.etcd.cert and key?"
PLAIN = "it does not speak TLS: store.etcd.endpoints has https:// where http:// is served"
ENDED = (
    "it ended the TLS handshake: does it speak TLS at all (store.etcd.endpoints), does it ask for store.etcd.cert and "
    "key, signed by a CA it trusts?"
)
NONSENSE = "its answer makes no sense: is it etcd that listens there?"

STRICT = "Python 3.13 and newer ask for it (RFC 5280): issue that certificate anew"

# What OpenSSL says of a certificate that it does not accept → what it means.
CERTIFICATE = (
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet: do the clocks agree?"),
    ("mismatch, certificate is not valid", "its certificate is not for this name: see store.etcd.endpoints"),
    ("unable to get local issuer", "its certificate is not signed by store.etcd.ca"),
    ("unable to get issuer", "its certificate is not signed by store.etcd.ca"),
    ("self-signed certificate", "its certificate is not signed by store.etcd.ca"),
    ("self signed certificate", "its certificate is not signed by store.etcd.ca"),
    ("signature failure", "its certificate is not signed by store.etcd.ca, but by a CA of the same name"),
    ("key usage", f"store.etcd.ca lacks the extension keyUsage with keyCertSign; {STRICT}"),
    ("Authority Key Identifier", f"its certificate lacks the extension authorityKeyIdentifier; {STRICT}"),
    ("Subject Key Identifier", f"store.etcd.ca lacks the extension subjectKeyIdentifier; {STRICT}"),
    ("Basic Constraints", f"store.etcd.ca has no basicConstraints that are marked critical; {STRICT}"),
)

# A part of what TLS, the system or etcd says → what it means. The first that fits is taken.
REASONS = (
    ("refused", "connection refused"),
    ("timed out", SILENT),
    ("unreachable", "network unreachable"),
    ("No route", "no route to host"),
    ("Name or service not known", "its name cannot be resolved"),
    ("name resolution", "its name cannot be resolved"),
    ("WRONG_VERSION_NUMBER", PLAIN),
    ("SSLZeroReturnError", PLAIN),
    ("KEY_VALUES_MISMATCH", "store.etcd.key is not the key of store.etcd.cert"),
    ("TLS CA certificate bundle", "store.etcd.ca: no such file"),
    ("TLS certificate file", "store.etcd.cert: no such file"),
    ("TLS key file", "store.etcd.key: no such file"),
    ("NO_CERTIFICATE_OR_CRL_FOUND", "store.etcd.ca holds no certificate"),
    ("alert", "it refuses this agent's certificate: store.etcd.cert and key, signed by a CA that etcd trusts"),
    ("SSLEOFError", ENDED),
    ("reset by peer", CUT),
    ("RemoteDisconnected", CUT),
    ("invalid user ID or password", "it does not know store.etcd.user with this password"),
    ("user name is empty", "it asks who this is: store.etcd.user and password_file"),
    ("permission denied", "store.etcd.user may not read and write below store.etcd.prefix: grant it a role"),
)


def reason(said: str) -> str:
    """What ``said`` means; where that is not known, the message in it, at most 200 characters; "" for nothing."""
    if refused := re.search(r"certificate verify failed: (.*?)(?: \(_ssl\.c:\d+\)|$)", said):
        unknown = f"its certificate, or store.etcd.ca, is not accepted: {refused[1][:200]}"
        return next((words for mark, words in CERTIFICATE if mark.lower() in refused[1].lower()), unknown)
    text = next((words for mark, words in REASONS if mark in said), said).strip()
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(text)
        text = str(answer.get("message") or answer.get("error") or text)
    return text.removeprefix("etcdserver: ")[:200]


def no_answer(failed: Mapping[str, str]) -> str:
    """One sentence for all endpoints (URL → why); several with the same trouble are listed together."""
    by_reason: dict[str, list[str]] = {}
    for url, why in failed.items():
        by_reason.setdefault(why, []).append(url)
    return "etcd cannot be used: " + "; ".join(f"{', '.join(urls)}: {why}" for why, urls in by_reason.items())
