"""The edge: translates wire messages to calls of the engine, and the engine's values to wire messages.

- `grpc/` and `http/` are the two interfaces. Each hands every call to `rpc.dispatch`.
- `rpc.dispatch` authenticates the caller, applies the deadline and turns errors into answers.
- `rpc.service` and `rpc.session` have one thin method for each RPC.
- `messages/` translates requests to demands, and values to messages.
"""
