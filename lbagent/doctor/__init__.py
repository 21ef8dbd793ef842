"""``lbctl doctor``: looks at HAProxy, its configuration and lbagent's files, and says how to mend what is wrong."""
