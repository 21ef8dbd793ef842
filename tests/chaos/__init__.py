"""A fault test: random commands under load while HAProxy, the agent and the disk fail; judged by what origins logged.

``python -m tests.chaos --seconds N --seed S``. Every decision comes from the seed; when it is carried out depends on
how long commands take. ``script`` decides, ``arena`` carries out, ``load`` asks, ``judge`` says what was broken.
With ``--hosts 3`` it is a control plane of three HAProxies that share one intent in etcd, a network namespace a host:
``plane_script`` decides, ``plane`` carries out, ``ledger`` knows what each HAProxy may be doing.
"""
