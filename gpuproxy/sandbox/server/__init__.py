"""The sandbox's two servers: on sockets, and in process."""
