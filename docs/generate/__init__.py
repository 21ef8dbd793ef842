"""Writes the reference of the manual, the man pages and the example configuration: ``python -m docs.generate``.

Each has one source in the program: click's commands, the table of error codes, the types of the configuration and of
the status, the table of metrics. Nothing here says again what stands there.
"""
