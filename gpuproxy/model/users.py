"""Roles, and what makes an email address and a password acceptable.

Each rule says what is wrong, "" when nothing is.
"""

from typing import Literal

Role = Literal["admin", "user", "viewer"]
ROLES: tuple[Role, ...] = ("admin", "user", "viewer")
"""The mightiest first: whoever has one may do whatever a later one may."""
MAX_EMAIL = 254
LEAST_PASSWORD = 8
"""Characters."""
MAX_PASSWORD_BYTES = 1024


def normalized_email(email: str) -> str:
    """As it is stored and compared."""
    return email.strip().lower()


def why_no_email(email: str) -> str:
    """An address with a name and a host; nobody writes to it."""
    name, _, host = normalized_email(email).partition("@")
    if len(email) > MAX_EMAIL:
        return f"must have at most {MAX_EMAIL} characters"
    if (
        not name
        or not host
        or not normalized_email(email).isprintable()
        or any(mark in email.strip() for mark in " ,;<>")
    ):
        return "must be an email address such as me@example.org"
    return ""


def why_no_password(password: str) -> str:
    """A new password."""
    if len(password) < LEAST_PASSWORD:
        return f"must have at least {LEAST_PASSWORD} characters"
    if len(password.encode(errors="surrogateescape")) > MAX_PASSWORD_BYTES:
        return f"must have at most {MAX_PASSWORD_BYTES} bytes"
    return ""


def why_no_admin(email: str, password: str) -> str:
    """The settings of the first admin user, both or neither."""
    if bool(email) != bool(password):
        return "GPUPROXY_ADMIN_EMAIL and GPUPROXY_ADMIN_PASSWORD: set both or neither"
    for name, wrong in (("EMAIL", why_no_email(email)), ("PASSWORD", why_no_password(password))):
        if email and wrong:
            return f"GPUPROXY_ADMIN_{name}: {wrong}"
    return ""
