"""The main job with the Python client, as a program of its own: list, reserve, wait, release, and a refusal.

`make dist` runs it in an environment that has the client alone, and mypy judges it there.
"""

from gpuproxy import Client
from gpuproxy.client import InvalidArgument
from gpuproxy.v1 import gpuproxy_pb2 as pb


def main() -> None:
    """Print one line for each step."""
    with Client() as client:
        market = client.list(provider="vast.ai", min_vram=16, max_price=2.0)
        print(f"{market.total_count} offers")
        with client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0) as reservation:
            reservation.wait_ready()
            prices: list[float] = [gpu.price_per_hour for gpu in reservation.instances]
            print(f"rented {len(prices)} for ${sum(prices):.4f} an hour")
        print(f"{reservation.id} released")
        try:
            client.call(client.stub.ReserveGPUs, pb.ReserveGPUsRequest(count=17))
        except InvalidArgument as error:
            print(f"refused: {error.reason} {sorted(error.violations)}")


if __name__ == "__main__":
    main()
