"""Chaos: random commands under load while HAProxy, the agent, etcd and the disk fail; judged by what origins logged.

``python -m tests.chaos --seconds N --seed S``. Every decision comes from the seed; when it is carried out depends on
how long commands take. With ``--hosts 3`` it is a control plane of three HAProxies that share one intent in etcd.

==================  ==================================================================================================
``script``          what will be done to one HAProxy, from the seed alone; ``script_several``: to three hosts
``one_haproxy``     carries the script out on one HAProxy: faults, commands, what they promised; ``several``: on hosts
``chaos``           what both have in common: steps, time, commands, looking at everything
``clients``         ask all the time, and note each answer
``possible``        what each HAProxy of several may be doing, where the end of a command is not known
``judge``           says what was broken: lists in, sentences out
==================  ==================================================================================================
"""
