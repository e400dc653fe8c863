"""The real outside world behind the ports: clock, network, threads, files, logs."""
