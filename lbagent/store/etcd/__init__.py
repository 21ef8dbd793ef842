"""The shared intent in etcd: what is stored, failover between members, login, what went wrong in words."""
