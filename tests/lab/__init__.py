"""The lab of all tests: origins, HAProxy, agent, network, etcd."""
