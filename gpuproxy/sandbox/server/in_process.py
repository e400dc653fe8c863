"""The sandbox without sockets, for deterministic tests: the Http and Probe ports on one market."""

from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from gpuproxy.ports.probe import ProbeKind
from gpuproxy.sandbox.protocol.plan import Plan
from gpuproxy.sandbox.world import Sandbox


class InProcessHttp:
    """Sends every request to the sandbox, whatever its host, and fails like a real transport."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.requests = 0
        """The number of requests sent."""

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request; any status is a response. Raises HttpNotSent or HttpReplyLost."""
        self.requests += 1
        plan = self._sandbox.receive(request)
        await self._sandbox.clock.sleep(0)  # other tasks run before the answer arrives
        if plan.delivery == "refuse":
            raise HttpNotSent("connection refused")
        if plan.delivery == "reset" or (plan.response is None and plan.delivery != "hang"):
            raise HttpReplyLost("connection reset by peer")
        seconds = self._real_seconds(plan)
        if plan.delivery == "hang" or seconds >= request.timeout:
            await self._sandbox.clock.sleep_real(min(seconds, request.timeout))
            raise HttpReplyLost("no complete answer in time")
        if seconds > 0:
            await self._sandbox.clock.sleep_real(seconds)
        return _within(plan, request.max_bytes)

    def _real_seconds(self, plan: Plan) -> float:
        per_byte = plan.response is not None and plan.delivery == "trickle"
        size = len(plan.response.body) if per_byte and plan.response is not None else 1
        return plan.delay / self._sandbox.clock.scale + plan.real_seconds * size


class InProcessProbe:
    """Reads the market's port table instead of the network."""

    def __init__(self, sandbox: Sandbox, check_key: str = "") -> None:
        """`check_key` is the public key that logins use."""
        self._sandbox = sandbox
        self._check_key = check_key

    async def reachable(
        self, kind: ProbeKind, host: str, port: int, timeout: float, *, path: str = "/", user: str = "root"
    ) -> bool:
        """True if the port answers as `kind` wants; "ssh_login": and the instance has the check key. Takes no time.

        "http": a web server or a program of the user answers, and the GPU has not failed. Every path is answered.
        """
        del timeout, path, user
        self._sandbox.tick()
        if kind == "ssh_login":
            return self._sandbox.lets_in(port, self._check_key)
        answers = self._sandbox.port_table.open.get(port) if host.strip() in ("127.0.0.1", "localhost") else None
        if kind == "http":
            return answers in ("http", "tcp")
        return answers is not None and kind in ("tcp", answers)


def _within(plan: Plan, max_bytes: int) -> HttpResponse:
    if plan.response is None or len(plan.response.body) > max_bytes:
        raise HttpReplyLost("the answer is larger than allowed")
    return plan.response
