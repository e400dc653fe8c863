"""A caller's machines: list, destroy, stop, start, read logs, and the load of their hosts."""
