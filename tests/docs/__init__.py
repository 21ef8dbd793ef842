"""The manual: its commands are run, its configurations read, its reference compared."""
