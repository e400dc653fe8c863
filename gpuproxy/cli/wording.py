"""Texts of the server in the words of the command line: commands instead of calls. JSON has the texts as they are."""

import re
from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "CleanupWarmPool": "warmpool cleanup",
    "DeleteRetainedVolume": "warmpool delete-volume",
    "DeleteSSHKey": "ssh-keys delete",
    "DestroyGPUInstance": "destroy",
    "DisableWarmPool": "warmpool disable",
    "EnableWarmPool": "warmpool enable",
    "ExtendReservation": "extend",
    "FailoverWarmPool": "warmpool failover",
    "GetGPUInstance": "show",
    "GetInstanceLogs": "logs",
    "GetReservation": "show",
    "GetWarmPoolStatus": "warmpool status",
    "ListAPIKeys": "keys list",
    "ListGPUInstances": "list",
    "ListGPUInstances with `state: rented`": "ps",
    "ListProviders": "providers",
    "ListReservations": "reservations",
    "ListSpendingLimits": "limits",
    "ListSSHKeys": "ssh-keys list",
    "ListWarmPoolHosts": "warmpool hosts",
    "ProvisionWarmPool": "warmpool provision",
    "ReleaseReservation": "release",
    "ReserveGPUs": "reserve",
    "RevokeAPIKey": "keys revoke",
    "SetSpendingLimit": "limits set",
    "StartGPUInstance": "start",
    "StopGPUInstance": "stop",
    "TestWarmPoolFailover": "warmpool test-failover",
}
"""The command that makes a call, by the call's name."""
_PHRASES: Mapping[str, str] = {
    "Provision one first.": "To create one: gpuproxy warmpool provision",
    "with min_gpus ": "--min-gpus ",
    "with allow_unfenced": "--allow-unfenced",
}
_LONGEST_FIRST = sorted(COMMANDS, key=len, reverse=True)
_CALL = re.compile(rf"(?:\b(Call|call) )?\b({'|'.join(map(re.escape, _LONGEST_FIRST))})(?!\w)")


def in_commands(text: str) -> str:
    """The text with `gpuproxy warmpool provision` instead of ProvisionWarmPool."""
    for phrase, words in _PHRASES.items():
        text = text.replace(phrase, words)
    return _CALL.sub(_command, text)


def _command(found: re.Match[str]) -> str:
    run = {None: "", "Call": "Run ", "call": "run "}[found[1]]
    return f"{run}`gpuproxy {COMMANDS[found[2]]}`"
