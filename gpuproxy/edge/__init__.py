"""The edge: wire messages become calls of the rooms below, and their values become wire messages.

An interface (`grpc/`, `http/`) hands each call to `rpc.dispatch`, which knows who asks, until when, and what an error
becomes; `rpc.service` and `rpc.session` have one thin method an RPC; `messages/` makes demands of requests and
messages of answers.
"""
