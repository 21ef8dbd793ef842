"""The loop: tick, commands, operations; alone or as a member of several."""
