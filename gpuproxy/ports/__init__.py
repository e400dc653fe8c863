"""All the outside world that the program needs: interfaces and the values that cross them, nothing else.

Nobody else reads the time, the network, randomness or threads; that is what makes a whole deployment, marketplace
included, run deterministically under a test's virtual clock. Adapters are chosen in `app.main` alone.
"""

from gpuproxy.ports.clock import Clock
from gpuproxy.ports.database import Database, Tx, Wakeups
from gpuproxy.ports.descriptor import Descriptor, PacedCall
from gpuproxy.ports.http import Http, HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from gpuproxy.ports.instances import Blame, InstanceStatus, Inventory, ListedInstance
from gpuproxy.ports.probe import Probe
from gpuproxy.ports.provider import Capabilities, Provider, ProviderSetup, Receipt, Spend
from gpuproxy.ports.random import Random
from gpuproxy.ports.workers import Workers

__all__ = [
    "Blame",
    "Capabilities",
    "Clock",
    "Database",
    "Descriptor",
    "Http",
    "HttpNotSent",
    "HttpReplyLost",
    "HttpRequest",
    "HttpResponse",
    "InstanceStatus",
    "Inventory",
    "ListedInstance",
    "PacedCall",
    "Probe",
    "Provider",
    "ProviderSetup",
    "Random",
    "Receipt",
    "Spend",
    "Tx",
    "Wakeups",
    "Workers",
]
