"""GPU Proxy: rent GPUs on marketplaces through one API, and never lose track of a paid machine."""
