"""The edge: wire messages become engine calls here, and engine values become wire messages.

A face (grpc_server; HTTP later) hands each call to `dispatch`, which knows who asks, until when, and what an error
becomes; `service` has one thin method an RPC; `translate*` and `launch` hold every rule about fields.
"""
