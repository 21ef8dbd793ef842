"""The lab: everything that tests, chaos, measurements and the demo start for real, each thing once.

The truth about routing is what the origins logged. Nothing here judges; tests do.

======================  ==============================================================================================
``wait``                ``eventually``: a condition with a deadline, in place of a sleep; ``within``: a limit of time
``ports``               ``free_port``: a port of a block that no other test process on this machine uses
``origins``             ``Origin``: an HTTP server that logs each request as an ``Entry``
``clients``             ``ask``: one request; ``Load``: many clients that ask until they are stopped
``configuration``       the one writer of haproxy.cfg: ``Configuration`` of ``Frontend``, ``Backend``, ``Server``
``haproxy``             ``HAProxy``: a real one in master-worker mode; start, reload, kill, ask its sockets
``agent``               ``Agent``: a real lbagent, and lbctl against it
``one_haproxy``         ``Lab``: one HAProxy, three nodes ``ctl1`` to ``ctl3``, an agent. Fixtures ``lab``, ``make_lab``
``network``             ``Network``: hosts as network namespaces on a bridge; cut one off, heal it
``several_haproxies``   ``ControlPlane``: three ``Host``s with an HAProxy, an agent and an etcd member each
``etcd``                ``EtcdMember`` on a host, ``OneEtcd`` on loopback; ``etcd_store``: what tests of the store share
``keepalived``          ``Keepalived``: moves the virtual address between hosts
``proxy``               ``Proxy``: TCP forwarded badly: late, lost, hanging
``certificates``        ``Authority``: a CA and what it signs
``openstack``           ``Clients``: OpenStack's own command line clients; ``keystone``: real Keystones;
                        ``catalog``: fixed documents; ``cloud``: HAProxy in front of Keystones
``standin``             many small stand-ins for HAProxy in one process, for the measurement with 50 agents
``model_haproxy``       an HAProxy in memory, for the tests of the pure part
======================  ==============================================================================================
"""
