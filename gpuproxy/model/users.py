"""Roles, and the rules for email addresses and passwords.

Each rule returns a description of what is wrong, or "" if nothing is.
"""

from typing import Literal

Role = Literal["admin", "user", "viewer"]
ROLES: tuple[Role, ...] = ("admin", "user", "viewer")
"""The highest role first: a role may do everything that a later one may do."""
MAX_EMAIL = 254
MIN_PASSWORD = 8
"""Minimum number of characters."""
MAX_PASSWORD_BYTES = 1024


def normalized_email(email: str) -> str:
    """The address in the form in which it is stored and compared: stripped and in lower case."""
    return email.strip().lower()


def email_error(email: str) -> str:
    """What is wrong with an email address. It needs a name and a host; no mail is ever sent to it."""
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


def password_error(password: str) -> str:
    """What is wrong with a new password."""
    if len(password) < MIN_PASSWORD:
        return f"must have at least {MIN_PASSWORD} characters"
    if len(password.encode(errors="surrogateescape")) > MAX_PASSWORD_BYTES:
        return f"must have at most {MAX_PASSWORD_BYTES} bytes"
    return ""


def admin_error(email: str, password: str) -> str:
    """What is wrong with the settings of the first admin user."""
    if bool(email) != bool(password):
        return "GPUPROXY_ADMIN_EMAIL and GPUPROXY_ADMIN_PASSWORD: set both or neither"
    for name, wrong in (("EMAIL", email_error(email)), ("PASSWORD", password_error(password))):
        if email and wrong:
            return f"GPUPROXY_ADMIN_{name}: {wrong}"
    return ""
