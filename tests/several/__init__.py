"""Tests with several HAProxies that share an intent in etcd."""
