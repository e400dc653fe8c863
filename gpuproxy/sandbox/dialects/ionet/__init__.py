"""The wire format of io.net: virtual machines (VMaaS), and what its SDK needs of containers (CaaS)."""
