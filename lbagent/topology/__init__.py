"""Which backends and servers a service and a node have now."""
