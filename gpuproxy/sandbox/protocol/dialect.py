"""What the sandbox needs of the API of a marketplace: it recognises requests and answers them from a market."""

from typing import Protocol

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Catalogue, Fault
from gpuproxy.sandbox.protocol.wire import Call, Incoming


class Dialect(Protocol):
    """The API of one marketplace, on one market."""

    @property
    def provider(self) -> str:
        """The marketplace's name."""

    @property
    def catalogue(self) -> Catalogue:
        """The faults that can hit its calls."""

    @property
    def kind(self) -> str:
        """The kind of its market: on_demand or prepaid."""

    def recognise(self, request: Incoming) -> Call | None:
        """The call of a request, with the caller's key; None if the path is not of this API."""

    def respond(self, call: Call, fault: Fault | None = None, *, limited: bool = True) -> HttpResponse:
        """The answer to a call. `fault` is one that the dialect implements; `limited`: rate limits apply."""

    def names_nothing(self, call: Call) -> bool:
        """True for a read or destroy of something that the account doesn't have."""

    def failure(self, status: int, fault: Fault) -> HttpResponse:
        """An error of the service itself, with the words of a fault."""
