"""The commands that test_order leaves out: raw lists, bulk, reboots, logs, bids, clones, volumes with instances."""

from collections.abc import Sequence

import pytest

from tests.vastai_cli.expect import Control, Shown, Step
from tests.vastai_cli.program import Program
from tests.vastai_cli.stage import Market, play

pytestmark = pytest.mark.timeout(3600)  # a command takes about a second, and many seconds on a busy machine

_BOOTED = Control(post="clock", body={"advance_seconds": 4000})
_MADE = Shown({"success": True, "new_contract": int, "instance_api_key": str}, keep={"N": ["new_contract"]})
_ROOM = "search offers 'num_gpus=1 gpu_frac=1 disk_space>100' -o dph --limit 2 --raw"

_LISTS = (
    Step(
        run="show user --raw",
        out=Shown({"id": int, "credit": 100000.0, "balance": 0, "host_agreement_accepted": False}),
        calls={"user": 1},
    ),
    Step(run="search volumes 'disk_space>50' --limit 3 --raw", out=Shown([{"disk_space": float, "id": int}] * 3)),
    Step(run="search offers gpu_name=NONE --raw", out=Shown([])),
    Step(run="search offers -r --limit 1 --raw", out=Shown([{"rentable": True, "is_bid": False}])),
    Step(run="search offers --type bid --limit 1 --raw", out=Shown([{"rentable": True, "is_bid": True}])),
    Step(
        run="search offers -n --new 'num_gpus=1 gpu_name=RTX_4090' --limit 1 --raw",
        out=Shown([{"gpu_name": "RTX 4090"}]),
    ),
    Step(run="show instances --raw", out=Shown([])),
    Step(run=_ROOM, out=Shown([{}] * 2, keep={"O": [0, "id"]})),
    Step(run="create instance $O --image a/b --ssh --direct --env '-e A=1 -p 8000:8000' --label one --raw", out=_MADE),
    _BOOTED,
    Step(
        run="show instances --raw",
        out=Shown(
            [
                {
                    "id": "$N",
                    "label": "one",
                    "actual_status": "running",
                    "extra_env": {"A": "1", "-p 8000:8000": "1"},
                    "ports": {"22/tcp": list, "8000/tcp": list},
                    "volume_info": [],
                }
            ]
        ),
        calls={"list": 1},
    ),
    Step(
        run="show instances --no-color",
        out="<...>--status: running<...>Total: 1 instances<...>one: 1<...>$N<...>running<...>one<...>a/b<...>",
        err="<...>",
        calls={"list": 1, "filters": 1},
    ),
    Step(run="show instances --status exited -q"),
    Step(run="logs $N", out="<time> container $N starts\n<time> sshd listens on port 22", calls={"logs": 1}),
    Step(run="logs $N --tail 1", out="<time> sshd listens on port 22"),
    Step(run="logs $N --filter starts", out="<time> container $N starts"),
    Step(run="logs $N --daemon-logs", out="<time> contract $N begins\n<time> pulling a/b"),
    Step(run="reboot instance $N", out="Rebooting instance $N."),
    Step(run="show instance $N --raw", out=Shown({"actual_status": "rebooting", "cur_state": "running"})),
    _BOOTED,
    Step(run="recycle instance $N", out="Recycling instance $N."),
    Step(run="show instance $N --raw", out=Shown({"actual_status": "recycling", "cur_state": "running"})),
    Step(run="stop instance $N", out="stopping instance $N."),
    Step(run="reboot instance $N", err="Failed with error 400: error 400/3472: Instance $N is not running."),
    Step(run="ssh-url 1", out="error: no instance found with id 1", code=1),
    Step(run="destroy instance $N -y", out="destroying instance $N."),
    Step(run="logs $N", err="Failed with error 404: Instance $N not found."),
)
_BULK = (
    Step(run=_ROOM, out=Shown([{}] * 2, keep={"O": [0, "id"], "P": [1, "id"]})),
    Step(run="create instances $O $P --image x --raw", calls={"create_many": 1}),
    Step(run="show instances -q", out="<N:int>\n<M:int>"),
    Step(run="stop instances $N $M", out="stopping instance [$N, $M]."),
    Step(run="show instances --raw", out=Shown([{"intended_status": "stopped"}] * 2)),
    Step(run="start instances $N $M", out="starting instance [$N, $M]."),
    Step(run="show instances --raw", out=Shown([{"intended_status": "running"}] * 2)),
    Step(run="destroy instances $N $M -y", out="destroying instance [$N, $M]."),
    Step(run="show instances -q"),
    Step(run=_ROOM, out=Shown([{}] * 2, keep={"O": [0, "id"]})),
    Step(
        run="create instances $O 5 --image x",
        out="Started. {'success': True, 'new_contracts': [<N:int>], 'failed': [{'success': False, 'error': "
        "'invalid_args', 'msg': 'error 404/3603: no_such_ask Instance type by id 5 is not available.', 'ask_id': 5}]}",
    ),
    Step(run="destroy instances $N -y", out="destroying instance [$N]."),
    Step(
        run="launch instance -g RTX_4090 -n 1 -i x/y --raw",
        out=_MADE,
        calls={"launch": 1},
    ),
    Step(run="destroy instance $N -y", out="destroying instance $N."),
)
_BIDS = (
    Step(
        run="search offers 'num_gpus=1 gpu_frac=1' --type bid -o dph --limit 1 --raw",
        out=Shown([{"is_bid": True}], keep={"O": [0, "id"], "B": [0, "min_bid"]}),
    ),
    Step(run="create instance $O --image x --bid_price $B --raw", out=_MADE),
    _BOOTED,
    Step(run="show instance $N --raw", out=Shown({"is_bid": True, "actual_status": "running"})),
    Step(run="change bid $N --price 0.001", out="Per gpu bid price changed", calls={"price": 1}),
    Step(run="show instance $N --raw", out=Shown({"actual_status": "exited", "cur_state": "stopped"})),
    Step(run="change bid $N", out="Per gpu bid price changed"),
    Step(run="show instance $N --raw", out=Shown({"cur_state": "running", "next_state": "running"})),
    _BOOTED,
    Step(run="show instance $N --raw", out=Shown({"actual_status": "running"})),
    Control(post="instances/$N/kill", body={"how": "outbid"}),
    Step(run="show instance $N --raw", out=Shown({"intended_status": "stopped", "cur_state": "stopped"})),
    Step(
        run="change bid $N --price 99",
        err="Failed with error 400: error 400/3481: price must be a number from 0.001 to 32",
    ),
    Step(run="destroy instance $N -y", out="destroying instance $N."),
    Step(run="change bid $N --price 1", err="Failed with error 404: Instance $N not found."),
)
_KEY = "ssh-ed25519 AAAA x@y"
_KEYS = (
    Step(run=_ROOM, out=Shown([{}] * 2, keep={"O": [0, "id"], "P": [1, "id"]})),
    Step(run="create instance $O --image x --jupyter --direct --raw", out=_MADE),
    Step(run="show ssh-keys", out="[]"),
    Step(run="show ssh-keys --raw", out=Shown([])),
    Step(run=f"attach ssh $N '{_KEY}'", out="{'success': True}", calls={"ssh_key": 1}),
    Step(run=f"attach ssh $N '{_KEY}'", out="{'success': True}", calls={"ssh_key": 1}),
    Step(
        run=f"attach ssh $N '{_KEY}'",
        faults=[{"call": "ssh_key", "fault": "key_refused", "account": "key-ssh"}],
        err="Failed with error 400: SSH key is already associated with this instance.",
    ),
    Step(run=f"attach ssh 5 '{_KEY}'", err="Failed with error 404: Instance 5 not found."),
    _BOOTED,
    Step(
        run="show instance $N --raw",
        out=Shown(
            {"ports": {"22/tcp": list, "8080/tcp": list}, "image_runtype": "jupyter_direc ssh_direc ssh_proxy"},
            keep={"D": ["ports", "22/tcp", 0, "HostPort"]},
        ),
    ),
    Step(run="ssh-url $N", out="ssh://root@127.0.0.1:$D"),
    Step(run="create instance $P --image x --jupyter --raw", out=_MADE),
    _BOOTED,
    Step(run="show instance $N --raw", out=Shown({"ports": {"8080/tcp": list}, "ssh_port": int})),
    Step(run="ssh-url $N", out="ssh://root@127.0.0.1:<int>"),
)
_SHARED = {"call": "create", "fault": "volume_share_refused", "account": "key-volumes"}
_VOLUMES = (
    Step(
        run="search offers 'num_gpus=1 gpu_frac=0.5 disk_space>100' -o machine_id --limit 1 --raw",
        out=Shown([{}], keep={"O": [0, "id"], "M": [0, "machine_id"], "VO": [0, "avail_vol_ask_id"]}),
    ),
    Step(
        run="create instance $O --image x --create-volume $VO --volume-size 50 --volume-label w --mount-path /d --raw",
        out=_MADE,
    ),
    Step(
        run="show volumes --raw",
        out=Shown([{"label": "w", "machine_id": "$M", "instances": ["$N"]}], keep={"V": [0, "id"]}),
    ),
    Step(run="show instances --raw", out=Shown([{"volume_info": [{"id": "$V", "label": "w", "total_space": 50.0}]}])),
    Step(run="search offers 'num_gpus=1 machine_id=$M' --raw", out=Shown([{}], keep={"P": [0, "id"]})),
    Step(
        run="create instance $P --image x --link-volume $V --mount-path /d",
        faults=[_SHARED],
        err="Failed with error 400: error 400/3467: the volume is attached to another instance",
    ),
    Step(
        run="create instance $P --image x --link-volume $V --mount-path /d --raw",
        out=Shown({"success": True}, keep={"T": ["new_contract"]}),
    ),
    Step(run="show volumes -t local --raw", out=Shown([{"instances": ["$N", "$T"], "status": "in-use"}])),
    Step(run="show volumes -t network --raw", out=Shown([])),
    Step(run="logs $N --daemon-logs", out="<...>mounting V.$V at /d"),
    Step(run="clone volume $V $VO -s 60 --raw", out=Shown({"success": True, "volume_name": str})),
    Step(run="clone volume $V $VO -s 10", err="Failed with error 400: error 400/3467: size must be <...>"),
    Step(run="create volume $VO -s 999999", err="Failed with error 400: error 400/3467: volume offer $VO has no <...>"),
    Step(
        run="create volume $VO -n no-good", err="Failed with error 422: name: 1 to 64 letters, digits and underscores"
    ),
    Step(run="create volume 5 --raw", err="<...>volume offer 5 is not available<...>"),
    Step(run="destroy instances $N $T -y", out="destroying instance [$N, $T]."),
    Step(run="search offers 'num_gpus=1 gpu_frac=1' --limit 1 --raw", out=Shown([{}], keep={"E": [0, "id"]})),
    Step(
        run="create instance $E --image x --link-volume $V --mount-path /d",
        err="Failed with error 400: error 400/3467: the volume is not on the machine of this offer",
    ),
)
_STORIES = {
    "key-lists": _LISTS,
    "key-bulk": _BULK,
    "key-bid": _BIDS,
    "key-ssh": _KEYS,
    "key-volumes": _VOLUMES,
}


@pytest.mark.parametrize("key", _STORIES)
def test_each_command_prints_the_same_as_with_the_real_service(program: Program, market: Market, key: str) -> None:
    story: Sequence[Step | Control] = _STORIES[key]
    play(program, market, key, story)
