"""What HAProxy reads: the guard's rules, its map and lists, the answers, the server-state file."""
