"""The running HAProxy: its runtime API, its master, one HAProxy with all its workers."""
