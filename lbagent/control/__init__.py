"""The control socket: calls, credentials, and a client for it."""
