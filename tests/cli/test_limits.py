"""`gpuproxy limits` and `gpuproxy spending`: tables, JSON, and errors that name the field."""

# ruff: noqa: N802 - the methods are named by the contract

import json

import grpc
import pytest
from google.rpc import code_pb2

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import Run, World, error

OVER = "The spending limit of $2.00 in 1h for project p1 does not allow it."


class Limited(World):
    """A server with the limits that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[pb.SpendingLimit] = []
        self.set: list[pb.SetSpendingLimitRequest] = []

    def ListSpendingLimits(
        self, request: pb.ListSpendingLimitsRequest, context: grpc.ServicerContext
    ) -> pb.ListSpendingLimitsResponse:
        self._judge(context)
        return pb.ListSpendingLimitsResponse(limits=self.limits)

    def SetSpendingLimit(
        self, request: pb.SetSpendingLimitRequest, context: grpc.ServicerContext
    ) -> pb.SetSpendingLimitResponse:
        self._judge(context)
        self.set.append(request)
        scope = "key" if request.key_id else "project" if request.project else "global"
        made = pb.SpendingLimit(
            window=request.window, limit=request.limit, project=request.project, key_id=request.key_id, scope=scope,
            policy=request.policy or "stop_newest",
        )  # fmt: skip
        return pb.SetSpendingLimitResponse(limit=made)

    def GetSpendingInfo(
        self, request: pb.GetSpendingInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetSpendingInfoResponse:
        self._judge(context)
        return pb.GetSpendingInfoResponse(
            windows=[
                pb.SpendingWindow(window="1h", scope="project", spent=0.5, held=0.25),
                pb.SpendingWindow(window="24h", scope="project", spent=3, held=1, limit=10, remaining=6),
                pb.SpendingWindow(window="month", scope="global", spent=9, held=2, limit=10, exceeded=True),
            ],
            guard_rails_enabled=True,
            total_spent_24h=3.25,
        )

    def CheckSpendingLimit(
        self, request: pb.CheckSpendingLimitRequest, context: grpc.ServicerContext
    ) -> pb.CheckSpendingLimitResponse:
        self._judge(context)
        if request.amount <= 2:
            return pb.CheckSpendingLimitResponse(allowed=True)
        window = pb.SpendingWindow(window="1h", scope="project", limit=2, remaining=2)
        return pb.CheckSpendingLimitResponse(reason=OVER, would_exceed=[window])


@pytest.fixture
def world() -> Limited:
    return Limited()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_without_limits_it_says_how_to_set_one(run: Run) -> None:
    for words in (["limits"], ["limits", "list"]):
        assert run(*words).stdout == "There are no spending limits. An admin sets one: gpuproxy limits set 24h 50\n"


@pytest.mark.parametrize("words", [["limits", "--json"], ["limits", "list", "--json"]])
def test_the_list_is_json_with_or_without_its_word(run: Run, world: Limited, words: list[str]) -> None:
    world.limits = [pb.SpendingLimit(window="24h", scope="global", limit=50)]
    [limit] = json.loads(run(*words).stdout)["limits"]
    assert (limit["window"], limit["limit"]) == ("24h", 50)


def test_an_option_that_limits_does_not_have_is_named(run: Run) -> None:
    told = run("limits", "--wrong")
    assert told.exit_code == 2
    assert "--wrong" in told.stderr


def test_the_help_of_limits_names_its_commands(run: Run) -> None:
    shown = run("limits", "--help").stdout
    assert "list" in shown
    assert "set" in shown


def test_the_table_says_window_limit_whom_it_limits_policy_and_where_it_comes_from(run: Run, world: Limited) -> None:
    world.limits = [
        pb.SpendingLimit(window="60min", limit=5, scope="global", policy="warn", setting="GUARDRAILS_MAX_60MIN_RATE"),
        pb.SpendingLimit(window="month", limit=1000, scope="project", project="research", policy="no_new"),
        pb.SpendingLimit(window="24h", limit=0.005, scope="key", key_id="key-abc", policy="release_newest"),
    ]
    result = run("limits")
    assert result.exit_code == 0, result.stderr
    assert rows(result.stdout) == [
        ["WINDOW", "LIMIT", "OF", "POLICY", "FROM"],
        ["60min", "$5.00", "all", "projects", "warn", "GUARDRAILS_MAX_60MIN_RATE"],
        ["month", "$1000.00", "project", "research", "no_new", "gpuproxy", "limits", "set"],
        ["24h", "$0.0050", "key", "key-abc", "release_newest", "gpuproxy", "limits", "set"],
    ]


def test_json_is_the_answer_itself(run: Run, world: Limited) -> None:
    world.limits = [pb.SpendingLimit(window="1h", limit=2, scope="key", key_id="key-abc", policy="warn")]
    [listed] = json.loads(run("limits", "list", "--json").stdout)["limits"]
    assert {"window": "1h", "limit": 2, "key_id": "key-abc", "policy": "warn"}.items() <= listed.items()
    made = json.loads(run("limits", "set", "24h", "5", "--json").stdout)
    assert {"window": "24h", "limit": 5, "scope": "global"}.items() <= made["limit"].items()
    spending = json.loads(run("spending", "--json").stdout)
    assert [each["window"] for each in spending["windows"]] == ["1h", "24h", "month"]
    refused = run("spending", "--check", "3", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["allowed"]) == (1, False)


@pytest.mark.parametrize(
    ("words", "sent", "shown"),
    [
        (["24h", "50"], {"window": "24h", "limit": 50.0}, "$50.00 in 24h for all projects, stop_newest"),
        (
            ["month", "1000", "--project", "research", "--policy", "no_new"],
            {"window": "month", "limit": 1000.0, "project": "research", "policy": "no_new"},
            "$1000.00 in month for project research, no_new",
        ),
        (
            ["1h", "0.005", "--key-id", "key-abc"],
            {"window": "1h", "limit": 0.005, "key_id": "key-abc"},
            "$0.0050 in 1h for key key-abc, stop_newest",
        ),
        (
            ["1h", "0", "--project", "p2"],
            {"window": "1h", "project": "p2"},
            "There is no limit of 1h for project p2 any more",
        ),
    ],
)
def test_a_limit_that_is_set_is_sent_as_given_and_the_answer_is_shown(
    run: Run, world: Limited, words: list[str], sent: dict[str, object], shown: str
) -> None:
    result = run("limits", "set", *words)
    assert (result.exit_code, result.stdout) == (0, f"{shown}\n")
    assert world.set == [pb.SetSpendingLimitRequest(**sent)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["month", "10"], "It is exceeded already. Nothing new is rented, and the newest machines without an end are"),
        (["month", "10", "--policy", "warn"], "It is exceeded already. The policy warn only logs it."),
        (["month", "10", "--project", "other"], ""),
        (["1h", "10"], ""),
        (["month", "0"], ""),
    ],
)
def test_a_limit_that_is_exceeded_already_says_so_and_what_its_policy_does(
    run: Run, words: list[str], said: str
) -> None:
    result = run("limits", "set", *words)
    assert result.exit_code == 0
    assert result.stderr.startswith(said) if said else result.stderr == ""


@pytest.mark.parametrize("words", [["24h"], ["24h", "much"], ["24h", "5", "--policy", "kill"], ["24h", "5", "6"]])
def test_wrong_usage_of_limits_sends_nothing(run: Run, world: Limited, words: list[str]) -> None:
    assert run("limits", "set", *words).exit_code == 2
    assert world.set == []


def test_a_refusal_names_the_field_and_says_the_rule(run: Run, world: Limited) -> None:
    rule = "'4m' is no window: use a duration from 5m to 90d"
    world.refuse_with = error(
        code_pb2.INVALID_ARGUMENT, "The request is invalid.", "INVALID_ARGUMENT", {"window": rule}
    )
    result = run("limits", "set", "4m", "5")
    assert (result.exit_code, result.stdout, world.set) == (1, "", [])
    assert f"window: {rule}" in result.stderr


def test_somebody_who_is_no_admin_is_told_so(run: Run, world: Limited) -> None:
    world.refuse_with = error(code_pb2.PERMISSION_DENIED, "Only an admin may do this.", "PERMISSION_DENIED")
    result = run("limits", "set", "1h", "5")
    assert result.exit_code == 1
    assert "Only an admin may do this." in result.stderr


def test_spending_shows_what_is_spent_held_and_left(run: Run) -> None:
    lines = rows(run("spending").stdout)
    assert lines == [
        ["WINDOW", "OF", "SPENT", "HELD", "LIMIT", "LEFT"],
        ["1h", "project", "$0.5000", "$0.2500", "none", "-"],
        ["24h", "project", "$3.0000", "$1.0000", "$10.00", "$6.0000"],
        ["month", "global", "$9.0000", "$2.0000", "$10.00", "exceeded"],
        ["$3.2500", "in", "the", "last", "24", "hours"],
    ]


def test_a_check_answers_with_its_exit_code_and_the_reason(run: Run) -> None:
    fits, over = run("spending", "--check", "0.0125"), run("spending", "--check", "2.01")
    assert (fits.exit_code, fits.stdout) == (0, "$0.0125 could be held now.\n")
    assert (over.exit_code, over.stdout) == (1, f"{OVER}\n")
