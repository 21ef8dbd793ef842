"""Where an intent is kept: a file, etcd; the history."""
