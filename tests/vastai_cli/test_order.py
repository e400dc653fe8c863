"""A complete scenario, command by command: volume, instance, label, stop, another customer, destroy, charges."""

import pytest

from tests.vastai_cli.expect import Control, Shown, Step
from tests.vastai_cli.program import Program
from tests.vastai_cli.stage import Market, play

pytestmark = pytest.mark.timeout(3600)  # a command takes about a second, and many seconds on a busy machine

_LATER = Control(post="clock", body={"advance_seconds": 200})
_BOOTED = Control(post="clock", body={"advance_seconds": 4000})
_CREATE = (
    "create instance $O --image pytorch/pytorch --disk 40 --label L --ssh --direct --link-volume $V --mount-path /data"
)
_QUEUED = "Required resources are currently unavailable, state change queued."
_NO_ASK = "Failed with error 400: error 404/3603: no_such_ask Instance type by id $O is not available."

_SEARCHES = (
    Step(
        run="show user",
        out="""
# Balance Bal. Thld Bal. Thld Enabled City Country Addr Line 1 Addr line 2 Zip Billed Expected Billed Vfy \
Billing Creditonly Can Pay Credit Email Email Vfy Full Name Got Signup Credit Has Billing
1 0 0 - - - - - - - - - True 100000.00 user<U:int>@sandbox.invalid - - - -
# Has Payout Id Last4 Paid Expected Paid Vfy Pwd Resettable Paypal Email Ssh Key User Username
1 - <int> - - - - - - user<int>""",
    ),
    Step(
        run="search offers 'gpu_name=RTX_4090 num_gpus=1 gpu_frac=1' -o dph --limit 3 --raw",
        out=Shown(
            [{"gpu_name": "RTX 4090", "num_gpus": 1, "rentable": True, "verification": "verified"}] * 3,
            keep={"O": [0, "id"], "M": [0, "machine_id"], "VO": [0, "avail_vol_ask_id"]},
        ),
        calls={"search": 1},
    ),
    Step(
        run="search offers 'gpu_name=RTX_4090 num_gpus=1 gpu_frac=1' -o dph --limit 1",
        out="""
# ID CUDA N Model PCIE cpu_ghz vCPUs RAM VRAM Disk $/hr<...>
1 $O <number> 1x RTX_4090 <...>""",
    ),
    Step(
        run="search volumes machine_id=$M",
        out="""
# ID CUDA cpu_ghz Disk B/W Disk Disk Name $/Gb/Month NV Driver Net_up Net_down R Max_Days mach_id status host_id country
1 $VO <number> <number> <number> <free:int> nvme <number> <word> <number> <number> <number> <number> $M verified \
<int> <word>""",
        calls={"volume_search": 1},
    ),
)
_RENTS = (
    Step(run="create volume $VO -s 50 -n warm_a1", out="Created. {'success': True, 'volume_name': 'V.<V:int>'}"),
    Step(run=_CREATE, out="Started. {'success': True, 'new_contract': <N:int>, 'instance_api_key': '<hex>'}"),
    Step(run=_CREATE, err=_NO_ASK, calls={"create": 1}),
    Step(run="show instances -q", out="$N"),
    Step(run="show instances --label L --raw", out=Shown([{"id": "$N", "label": "L", "actual_status": None}])),
    Step(run="show instances --label other -q"),
    _LATER,
    Step(run="show instance $N --raw", out=Shown({"id": "$N", "actual_status": "loading", "machine_id": "$M"})),
    _BOOTED,
    Step(
        run="show instance $N --raw",
        out=Shown(
            {"actual_status": "running", "ports": {"22/tcp": [{"HostIp": str, "HostPort": str}]}},
            keep={"P": ["ports", "22/tcp", 0, "HostPort"]},
        ),
    ),
    Step(run="ssh-url $N", out="ssh://root@127.0.0.1:$P"),
    Step(run="label instance $N L2", out="label for $N set to L2."),
    Step(run="show instances --label L2 -q", out="$N"),
)
_STOPS = (
    Step(run="stop instance $N", out="stopping instance $N."),
    Step(run="show instance $N --raw", out=Shown({"actual_status": "exited", "intended_status": "stopped"})),
    Step(
        run="search offers machine_id=$M --raw",
        out=Shown([{"machine_id": "$M", "rentable": True}], keep={"O2": [0, "id"]}),
    ),
    Step(run="start instance $N", out="starting instance $N."),
    Step(run="search offers machine_id=$M --raw", out=Shown([])),
    Step(run="stop instance $N", out="stopping instance $N."),
    Step(run="search offers machine_id=$M --raw", out=Shown([{}], keep={"O3": [0, "id"]})),
    Step(
        run="create instance $O3 --image x/y --raw",
        key="key-stranger",
        out=Shown({"success": True, "new_contract": int, "instance_api_key": str}, keep={"S": ["new_contract"]}),
    ),
    Step(run="start instance $N", out=_QUEUED),
    Step(
        run="show instance $N --raw",
        out=Shown({"intended_status": "running", "cur_state": "stopped", "next_state": "running"}),
    ),
    Step(run="stop instance $N", out="stopping instance $N."),
    Step(run="destroy instance $S -y", key="key-stranger", out="destroying instance $S."),
    Step(run="show instance $N --raw", out=Shown({"intended_status": "stopped", "cur_state": "stopped"})),
)
_IN_USE = "Failed with error 400: error 400/3467: volume $V is in use by instances; destroy them first"
_ENDS = (
    Step(
        run="show volumes --raw",
        out=Shown([{"id": "$V", "label": "warm_a1", "status": "in-use", "instances": ["$N"], "disk_space": 50.0}]),
    ),
    Step(run="delete volume $V", err=_IN_USE),
    Step(run="destroy instance $N", out="Are you sure you want to destroy instance $N? <...> [y/N]\nAborted."),
    Step(run="destroy instance $N -y", out="destroying instance $N."),
    Step(run="show instance $N", err="Instance $N not found or no longer exists.", code=1),
    Step(run="destroy instance $N -y", err="Failed with error 404: Instance $N not found."),
    _LATER,
    Step(run="show volumes --raw", out=Shown([{"id": "$V", "status": "created", "instances": []}])),
    Step(run="delete volume $V --raw", out=Shown({"success": True})),
    Step(run="delete volume $V", err="Failed with error 404: Volume with that ID does not exist."),
    Step(
        run="show volumes",
        out="# ID Cluster ID Name Disk status Disk Name NV Driver Net_up Net_down R age(hours) mach_id Verification "
        "host_id country instances",
    ),
    Step(
        run="show invoices-v1 --charges --no-color",
        out="""
Fetching Instance Charges from <date> to <date>...
╔<...>╗
║ Type │ ID │ Amount │ Start │ End │ Endpoint │ Workergroup ║
╟<...>╢
║ Volume │ $V │ $<number> │ <date> │ <date> │ │ ║
║ Instance │ $N │ $<number> │ <date> │ <date> │ │ ║
╚<...>╝
Showing 2 of 2 results""",
    ),
    Step(
        run="show invoices-v1 --charges --charge-type instance --raw",
        out=Shown(
            {
                "count": 1,
                "total": 1,
                "next_token": None,
                "results": [
                    {
                        "type": "instance",
                        "source": "instance-$N",
                        "amount": float,
                        "metadata": {"label": "L2"},
                        "items": [{"type": "gpu", "amount": float}, {"type": "disk", "amount": float}],
                    }
                ],
            }
        ),
    ),
)


def test_the_suggested_order_of_commands_works_from_search_to_charges(program: Program, market: Market) -> None:
    play(program, market, "key-order", (*_SEARCHES, *_RENTS, *_STOPS, *_ENDS))
