"""The edge: wire messages become engine calls here, and engine values become wire messages.

A face (`grpc_server`, `http_server`) hands each call to `dispatch`, which knows who asks, until when, and what an
error becomes; `service` and `session` have one thin method an RPC; `translate*` make demands of requests and messages
of answers.
"""
