"""The man pages, from the same texts as ``--help``."""

from __future__ import annotations

import re

from docs.generate.verbs import Verb, verbs
from lbagent import daemon
from lbagent.cli import lbctl
from lbagent.errors import Exit
from lbagent.settings.reference import described


def roff(text: str) -> str:
    """Plain text for a man page: nothing in it is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def man(name: str, section: int, title: str, parts: list[str]) -> str:
    head = f'.\\" Written by docs/generate.\n.TH {name.upper()} {section} "" lbagent "{title}"\n'
    return head + f".SH NAME\n{name} \\- {roff(title)}\n" + "".join(parts)


def options(verb: Verb) -> str:
    return "".join(f".TP\n.B {roff(name)}\n{roff(text)}\n" for name, text in verb.options)


def paragraphs(verb: Verb) -> str:
    return "".join(f".PP\n{roff(text)}\n" for text in verb.paragraphs)


def lbctl_man() -> str:
    top, *rest = verbs(lbctl, "lbctl")
    parts = [f".SH SYNOPSIS\n.B {roff(top.usage)}\n.SH DESCRIPTION\n{paragraphs(top)}.SH OPTIONS\n{options(top)}"]
    parts.append(".SH COMMANDS\n")
    parts += [f".SS {roff(verb.usage)}\n{paragraphs(verb)}{options(verb)}" for verb in rest]
    exits = "".join(f".TP\n.B {int(exit_)}\n{roff(exit_.meaning)}\n" for exit_ in Exit)
    parts.append(f".SH EXIT STATUS\n{exits}")
    parts.append(".SH ENVIRONMENT\n.TP\n.B LBAGENT_SOCKET\nas \\-\\-socket\n.TP\n.B LBAGENT_CONFIG\nas \\-\\-config\n")
    parts.append(".SH SEE ALSO\n.BR lbagent (8),\n.BR haproxy (1)\n")
    return man("lbctl", 1, "maintenance for the services behind an HAProxy", parts)


def lbagent_man() -> str:
    verb = next(verbs(daemon.main, "lbagent"))
    parts = [f".SH SYNOPSIS\n.B {roff(verb.usage)}\n.SH DESCRIPTION\n{paragraphs(verb)}.SH OPTIONS\n{options(verb)}"]
    keys = "".join(
        f".TP\n.B {roff(d.path)}\n{roff(d.meaning)}" + (f" Default: {roff(d.default)}" if d.default else "") + "\n"
        for d in described()
    )
    parts.append(f".SH CONFIGURATION\nThe file is YAML. Every key has a default.\n{keys}")
    parts.append(
        ".SH SIGNALS\n.TP\n.B SIGHUP\nRead the configuration again; keep the old one when the new one is wrong.\n"
    )
    parts.append(".SH SEE ALSO\n.BR lbctl (1),\n.BR haproxy (1)\n")
    return man("lbagent", 8, "the agent beside an HAProxy", parts)
