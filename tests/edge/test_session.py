"""Logins, API keys and SSH keys over real channels, on a complete deployment."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import StatusCode

from gpuproxy.edge.messages.public_keys import InvalidPublicKey, public_key
from gpuproxy.edge.rpc.concurrency import network_of
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.deployed import Deployed, deployed
from tests.edge.test_fields import ecdsa_key, ssh_key

EMAIL, PASSWORD = "me@example.org", "correct horse"


async def token_of(world: Deployed) -> str:
    answer = await world.grpc.call("Login", pb.LoginRequest(email=EMAIL, password=PASSWORD), metadata={})
    return str(answer.token)


async def test_a_login_token_works_wherever_a_key_does(tmp_path: Path) -> None:
    async with deployed(tmp_path, admin_email=EMAIL, admin_password=PASSWORD) as world:
        answer = await world.grpc.call("Login", pb.LoginRequest(email="ME@example.org", password=PASSWORD), metadata={})
        assert (answer.email, answer.user_id[:5]) == (EMAIL, "user-")
        for metadata in ({"authorization": f"Bearer {answer.token}"}, {"x-api-key": answer.token}):
            await world.grpc.call("ListAPIKeys", metadata=metadata)
        status, body = await world.http("POST", "/api/v1/auth/login", {"email": EMAIL, "password": PASSWORD})
        assert status == 200
        headers = {"Authorization": f"Bearer {body['token']}"}
        made = await world.http("POST", "/api/v1/keys", {"name": "ci", "role": "admin"}, headers=headers)
        listed = await world.http("GET", "/api/v1/keys", headers={"X-API-Key": made[1]["api_key"]})
    assert (made[0], listed[0], [key["name"] for key in listed[1]["keys"]]) == (201, 200, ["ci"])


async def test_a_failed_login_has_the_same_text_over_http_and_names_no_cause(tmp_path: Path) -> None:
    async with deployed(tmp_path, admin_email=EMAIL, admin_password=PASSWORD) as world:
        answers = [
            await world.http("POST", "/api/v1/auth/login", {"email": email, "password": password})
            for email, password in ((EMAIL, "wrong"), ("nobody@example.org", PASSWORD))
        ]
    assert {status for status, _ in answers} == {401}
    assert len({body["error"]["message"] for _, body in answers}) == 1


async def test_a_login_without_email_or_password_says_which_field_is_missing(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        empty = await world.grpc.refused("Login", metadata={})
        long = await world.grpc.refused("Login", pb.LoginRequest(email=EMAIL, password="x" * 1025), metadata={})
    assert (empty.code, set(empty.fields)) == (StatusCode.INVALID_ARGUMENT, {"email", "password"})
    assert (long.code, set(long.fields)) == (StatusCode.INVALID_ARGUMENT, {"password"})


async def test_a_key_is_created_with_a_token_field_and_disabled_with_its_user(tmp_path: Path) -> None:
    async with deployed(tmp_path, admin_email=EMAIL, admin_password=PASSWORD) as world:
        request = pb.CreateAPIKeyRequest(name="from Go", token=await token_of(world))
        made = await world.grpc.call("CreateAPIKey", request, metadata={})
        keys = await world.grpc.call("ListAPIKeys", key=made.api_key)
        (row,) = [key for key in keys.keys if key.id == made.id]
        await world.access.users.disable(EMAIL)
        world.engine.clock._started -= 1.0  # type: ignore[attr-defined]  # a real second passes
        refused = await world.grpc.refused("ListAPIKeys", key=made.api_key)
    assert (row.name, row.role, row.prefix) == ("from Go", "user", made.api_key[:10])
    assert refused.code is StatusCode.UNAUTHENTICATED


async def test_a_revoked_key_stops_within_a_second_and_a_key_of_another_project_is_not_found(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        one, two = [await world.access.keys.create(project, "k", "user") for project in ("p1", "p2")]
        strange = await world.grpc.refused("RevokeAPIKey", pb.RevokeAPIKeyRequest(id=two.row.id), key=one.text)
        await world.grpc.call("RevokeAPIKey", pb.RevokeAPIKeyRequest(id=one.row.id), key=one.text)
        world.engine.clock._started -= 1.0  # type: ignore[attr-defined]  # a real second passes
        refused = await world.grpc.refused("ListAPIKeys", key=one.text)
        await world.grpc.call("ListAPIKeys", key=two.text)
    assert (strange.code, refused.code) == (StatusCode.NOT_FOUND, StatusCode.UNAUTHENTICATED)


async def test_nobody_revokes_a_key_with_a_higher_role(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        admin, user, other, viewer = [
            await world.access.keys.create("p1", "k", role) for role in ("admin", "user", "user", "viewer")
        ]
        revoke = pb.RevokeAPIKeyRequest(id=admin.row.id)
        refused = await world.grpc.refused("RevokeAPIKey", revoke, key=user.text)
        http, _ = await world.http("DELETE", f"/api/v1/keys/{admin.row.id}", headers={"X-API-Key": user.text})
        for mine in (other, viewer):
            await world.grpc.call("RevokeAPIKey", pb.RevokeAPIKeyRequest(id=mine.row.id), key=user.text)
        keys = {
            key.id: key.HasField("revoked_at") for key in (await world.grpc.call("ListAPIKeys", key=admin.text)).keys
        }
        await world.grpc.call("RevokeAPIKey", revoke, key=admin.text)
    assert (refused.code, http) == (StatusCode.PERMISSION_DENIED, 403)
    assert keys == {admin.row.id: False, user.row.id: False, other.row.id: True, viewer.row.id: True}


async def test_only_an_admin_lists_the_keys_of_all_projects(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        made = [
            await world.access.keys.create(project, f"k-{project}", role)
            for project, role in (("p1", "admin"), ("p1", "user"), ("p2", "viewer"))
        ]
        admin, user, viewer = [
            {key.id for key in (await world.grpc.call("ListAPIKeys", key=each.text)).keys} for each in made
        ]
    assert {each.row.id for each in made} <= admin
    assert {each.row.id for each in made[:2]} <= user
    assert made[2].row.id not in user
    assert viewer == {made[2].row.id}


async def test_ssh_keys_are_added_once_listed_and_deleted_idempotently(tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        mine, theirs = [(await world.access.keys.create(p, "k", "user")).text for p in ("p1", "p2")]
        headers = {"X-API-Key": mine}
        status, body = await world.http("POST", "/api/v1/ssh-keys", {"public_key": ssh_key()}, headers=headers)
        again = await world.grpc.call("AddSSHKey", pb.AddSSHKeyRequest(name="b", public_key=ssh_key()), key=mine)
        assert (status, body["key"]["name"], body["key"]["id"]) == (201, "me@home", again.key.id)
        assert [key.fingerprint for key in (await world.grpc.call("ListSSHKeys", key=mine)).keys] == [
            public_key(ssh_key()).fingerprint
        ]
        assert not (await world.grpc.call("ListSSHKeys", key=theirs)).keys
        delete = pb.DeleteSSHKeyRequest(id=again.key.id)
        strange = await world.grpc.refused("DeleteSSHKey", delete, key=theirs)
        for _ in range(2):
            await world.grpc.call("DeleteSSHKey", delete, key=mine)
        assert not (await world.grpc.call("ListSSHKeys", key=mine)).keys
        back = await world.grpc.call("AddSSHKey", pb.AddSSHKeyRequest(public_key=ssh_key()), key=mine)
        assert (await world.http("DELETE", f"/api/v1/ssh-keys/{back.key.id}", headers=headers))[0] == 200
    assert (strange.code, back.key.id) == (StatusCode.NOT_FOUND, again.key.id)


def small_rsa() -> str:
    public = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505 - to be refused
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is required"),
        ("hunter2-canary", "must be one line"),
        ("ssh-ed25519 hunter2-canary", "must be one line"),
        (ssh_key().replace(" me", "\nssh-rsa"), "must be one line"),
        (f"{ssh_key()} {'x' * 17_000}", "at most 16384 bytes"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2-canary", "is a private key"),
        (ssh_key(inner="ssh-rsa"), "must be one line"),
        (small_rsa(), "at least 2048 bits"),
        (f'command="true" {ssh_key()}', "must be one line"),
    ],
)
async def test_an_invalid_public_key_is_refused_by_field_and_never_quoted(text: str, why: str, tmp_path: Path) -> None:
    async with deployed(tmp_path) as world:
        key = (await world.access.keys.create("p1", "k", "user")).text
        refused = await world.grpc.refused("AddSSHKey", pb.AddSSHKeyRequest(public_key=text), key=key)
    assert (refused.code, set(refused.fields)) == (StatusCode.INVALID_ARGUMENT, {"public_key"})
    assert why in refused.fields["public_key"]
    assert "hunter2" not in refused.text + str(refused.trailers)


def test_every_usual_kind_of_key_is_accepted_with_the_fingerprint_of_ssh_keygen() -> None:
    assert public_key(ecdsa_key()).comment == ""
    known = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl github"
    assert public_key(known).fingerprint == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
    with pytest.raises(InvalidPublicKey):
        public_key(known.replace("ssh-ed25519", "ssh-dss"))


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:5000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:5::6]:80", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("unix:/tmp/x", "unix"),
        ("", ""),
    ],
)
def test_login_attempts_are_counted_by_network_and_not_by_port(peer: str, network: str) -> None:
    assert network_of(peer) == network
