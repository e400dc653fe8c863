"""Marketplace adapters: one marketplace each, found through the entry points of group `gpuproxy.providers`."""
