"""SSH keys are registered with the marketplace for each instance."""

import pytest

from gpuproxy.model.errors import (
    AuthFailed,
    InvalidRequest,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
)
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpResponse
from tests.providers.wires import Script, on_script, says

ID = InstanceId("27182818")
KEY = "ssh-ed25519 AAAA x@y"


def added(answer: HttpResponse | Exception) -> Script:
    return on_script(lambda adapter: adapter.add_ssh_key(ID, KEY), answer)[1]


def test_a_key_is_registered_for_one_instance() -> None:
    script = added(says({"success": True}))
    (request,) = script.requests
    assert (request.method, request.url) == ("POST", f"https://console.vast.ai/api/v0/instances/{ID}/ssh/")
    assert script.sent() == {"ssh_key": KEY}


def test_a_key_that_the_instance_has_already_is_no_error() -> None:
    added(says({"success": False, "error": "invalid_args", "msg": "SSH key is already attached"}, 400))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (says({"success": False, "error": "no_such_instance", "msg": "Instance not found."}, 404), InvalidRequest),
        (says({"success": False, "error": "invalid_args", "msg": "Invalid ssh key"}, 400), InvalidRequest),
        (says({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404), AuthFailed),
        (says("API requests too frequent", 429), RateLimited),
        (HttpNotSent("refused"), ProviderUnavailable),
        (HttpReplyLost("reset"), OutcomeUnknown),
        (says("<html>502</html>", 502), OutcomeUnknown),
        (says("<html>welcome</html>", 200), OutcomeUnknown),
        (says({}, 200), OutcomeUnknown),
    ],
)
def test_anything_but_an_acceptance_is_an_error(answer: HttpResponse | Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        added(answer)
