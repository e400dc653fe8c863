"""Marketplace adapters, one package each. `app` finds them by the entry points of the group `gpuproxy.providers`."""
