"""Where the faces listen, and with which certificates; what is wrong with either is told by the setting's name."""

from dataclasses import replace

from gpuproxy.config import ConfigError, Settings
from gpuproxy.edge.faces import Faces
from gpuproxy.edge.tls import Certificates, TlsFiles, WrongFiles
from gpuproxy.system import ScaledClock


def certificates_of(settings: Settings) -> Certificates | None:
    """None: plaintext. Raises ConfigError for files that can't be used."""
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    files = TlsFiles(cert=settings.grpc_tls_cert, key=settings.grpc_tls_key, client_ca=settings.grpc_tls_client_ca)
    try:
        return Certificates(files, ScaledClock())
    except WrongFiles as error:
        raise ConfigError(f"{error}: not started.") from None


async def listen(settings: Settings, faces: Faces, certificates: Certificates | None) -> tuple[str, str]:
    """Where gRPC and HTTP listen now; raises ConfigError when one of them can't."""
    try:
        grpc = await faces.grpc.start(str(settings.grpc_addr), certificates)
    except RuntimeError as error:
        raise ConfigError(f"GPUPROXY_GRPC_ADDR: nothing can listen on {settings.grpc_addr}; is it taken?") from error
    try:
        http = await faces.http.start(settings.http_addr.host, settings.http_addr.port, certificates)
    except OSError as error:
        raise ConfigError(f"GPUPROXY_HTTP_ADDR: nothing can listen on {settings.http_addr}; is it taken?") from error
    return str(replace(settings.grpc_addr, port=grpc)), str(replace(settings.http_addr, port=http))
