"""lbagent: maintenance modes for the services behind an HAProxy."""

__version__ = "0.1.0"
