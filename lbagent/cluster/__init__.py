"""One intent for several HAProxies. Pure."""
