"""The adapters of the ports to the real system: clock, network, threads, files, logs."""
