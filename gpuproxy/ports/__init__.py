"""Interfaces to the outside world, and the values that cross them.

No other module uses the time, the network, randomness or threads directly. So a test can run a whole deployment,
marketplace included, deterministically under a virtual clock. Only `app.main` chooses the adapters.
"""

from gpuproxy.ports.clock import Clock, FollowingClock
from gpuproxy.ports.database import Database, Tx, Wakeups
from gpuproxy.ports.descriptor import Descriptor, PacedCall
from gpuproxy.ports.http import Http, HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from gpuproxy.ports.instances import Blame, Booking, InstanceStatus, Inventory, ListedInstance
from gpuproxy.ports.probe import Probe
from gpuproxy.ports.provider import Capabilities, Provider, ProviderSetup, Receipt, Spend
from gpuproxy.ports.random import Random
from gpuproxy.ports.volumes import ListedVolume, VolumeInventory, VolumeOffer
from gpuproxy.ports.workers import Workers

__all__ = [
    "Blame",
    "Booking",
    "Capabilities",
    "Clock",
    "Database",
    "Descriptor",
    "FollowingClock",
    "Http",
    "HttpNotSent",
    "HttpReplyLost",
    "HttpRequest",
    "HttpResponse",
    "InstanceStatus",
    "Inventory",
    "ListedInstance",
    "ListedVolume",
    "PacedCall",
    "Probe",
    "Provider",
    "ProviderSetup",
    "Random",
    "Receipt",
    "Spend",
    "Tx",
    "VolumeInventory",
    "VolumeOffer",
    "Wakeups",
    "Workers",
]
