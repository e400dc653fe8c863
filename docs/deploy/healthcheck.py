"""The health check of the container: exits with 0 if the server in it answers /healthz, otherwise with 1.

It reads the server's own settings: GPUPROXY_HTTP_ADDR (default 127.0.0.1:8080) and GPUPROXY_GRPC_TLS_CERT. It asks
/healthz and not /readyz, because a restart does not help while a marketplace is silent. If GPUPROXY_GRPC_TLS_CLIENT_CA
is set, it has no certificate to show, and only connects.
"""

import http.client
import os
import socket
import ssl
import sys

SECONDS = 4


def main() -> str | None:
    """None if the server answers; otherwise what happened."""
    host, _, port = os.environ.get("GPUPROXY_HTTP_ADDR", "127.0.0.1:8080").rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1", "": "127.0.0.1"}.get(host, host.strip("[]"))  # noqa: S104
    try:
        if os.environ.get("GPUPROXY_GRPC_TLS_CLIENT_CA"):
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
            return None
        connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
        if os.environ.get("GPUPROXY_GRPC_TLS_CERT"):
            context = ssl._create_unverified_context()  # noqa: S323, SLF001 - it asks itself, over loopback
            connection = http.client.HTTPSConnection(host, int(port), timeout=SECONDS, context=context)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error}"
    return None if status == 200 else f"/healthz answers {status}"


if __name__ == "__main__":
    sys.exit(main())
