"""The plant of all tests: origins, HAProxy, agent, network, etcd."""
