"""The HTTP/JSON interface: routes, pages, server-sent events, the OpenAPI description."""
