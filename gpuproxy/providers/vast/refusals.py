"""Errors with many wordings at vast.ai: the key is not valid, an instance or a volume does not exist, a volume is used.

The rule: they are recognised by the error's code and text, never by a 403, 404 or 410 alone. A code for another cause
takes precedence over words that may come from a start script, a registry or a container.
"""

import re

from gpuproxy.model.leases import InstanceId

_OTHER_KEYS = re.compile(
    r"\b(?:ssh|public|private|host|machine|search|sort|env|environment|registry|deploy|encryption|gpg|jupyter|cache)"
    r"[ _-](?:public[ _-]|private[ _-])?keys?\b"
)
"""Keys other than the account's API key."""
_ENDED = r"(?:expired|revoked|disabled|deactivated|deleted)"
_REJECTED = rf"(?:invalid|unknown|incorrect|bad|missing|{_ENDED})"
_OF_ACCOUNT = r"(?:user|api|auth|account)[ _-]?key"
_DEAD = re.compile(
    "|".join(
        (
            r"(?<![\w/.-])(?:auth_error|session_expired|login_required|not_logged_in)\b",
            r"(?<![\w/.-])two[ _-]?factor(?![\w/-])|^two_?factor",
            rf"\b{_REJECTED}[ _-]{_OF_ACCOUNT}\b",
            rf"\b{_OF_ACCOUNT}\b.{{0,20}}?\b(?:{_REJECTED}|not valid|not found)\b",
            r"\bsession (?:has |is |was )?(?:expired|invalid)\b|\b(?:expired|invalid) session\b",
        )
    )
)
"""Texts that always mean an invalid key."""
_DEAD_CODE = re.compile(
    r"auth|authorization|unauthori[sz]ed|unauthenticated|not_authenticated|not_authori[sz]ed"
    r"|authentication_(?:failed|required|error)|login|login_required|invalid_credentials|invalid_key"
)
_DEAD_UNLESS_NAMED = re.compile(
    "|".join(
        (
            r"(?<![\w/.-])[2t]fa(?![\w/-])",
            r"\brequires? (?:a |you to )?log ?in\b|\blogin (?:is )?required\b",
            r"\bplease (?:re-?)?(?:log|sign) ?in\b|\bmust (?:be logged|log) in\b",
            r"\bnot (?:logged in|signed in|authenticated)\b|\bauthentication (?:is )?(?:required|failed)\b",
            r"\binvalid credentials\b|\bunauthori[sz]ed\b",
            r"\b(?:lacks|lacking|missing|without|insufficient|no) (?:the )?[\w ]{0,30}?permissions?\b",
            r"\blacks \w+_(?:read|write)\b|\bnot permitted for this (?:api )?key\b",
            rf"\b{_ENDED} key\b|\bkeys? (?:has been |has |have |is |was )?{_ENDED}\b",
        )
    )
)
"""Texts that mean an invalid key unless the code or the text names another cause."""
_NAMED_CAUSES = re.compile(
    r"no_such_ask|no_such_instance|no_ssh_key|insufficient_credit|missing_billing|spend_rate_limit|invalid_price"
    r"|invalid_args|invalid_request|invalid_token|resources_unavailable|label_too_long|\b403/3586\b"
)

_OF_THE_CALL = re.compile(r"deprecat|endpoint|/api/|\burl\b|\broute\b|\bpath\b|\bmethod\b|\bapi v\d|use v\d")
"""Texts about a path or method that does not exist, not about an instance."""
_NAMED_INSTANCE = re.compile(r"\b(?:instance|contract)s?(?: with)?(?: id)?[ #:=]{1,3}(\d{1,25})\b")
_NONE_SUCH = re.compile(r"\bno such (?:instance|contract)\b")
_IS_GONE = re.compile(
    r"\b(?:instance|contract)\b.{0,60}?\b(?:not found|is gone|was gone|already gone|does not exist|doesn't exist"
    r"|no longer exists|(?:was|is|has been|been|already) (?:destroyed|deleted|removed))"
)

_NAMED_VOLUME = re.compile(r"\bvolumes?(?: with)?(?: id)?[ #:=]{1,3}(?:v\.)?(\d{1,25})\b")
_VOLUME_IS_GONE = re.compile(
    r"\bno such volume\b|\bvolume\b.{0,60}?\b(?:not found|does not exist|doesn't exist|no longer exists"
    r"|(?:was|is|has been|been|already) (?:destroyed|deleted|removed))"
)
_VOLUME_IS_TAKEN = re.compile(
    r"(?<![a-z])in[ _-]use(?![a-z])|\bused by\b|\balready (?:attached|mounted|linked)\b"
    r"|\b(?:attached|mounted|linked) (?:to|by) (?:(?:another|other|an existing|an) )?instances?\b"
    r"|\baccess denied\b"
)
"""Observed for a second machine with the same volume: "access denied"."""
_OFFER_IS_GONE = re.compile(
    r"\b(?:offer|ask)\b.{0,60}?\b(?:unavailable|no longer (?:rentable|available)|not available|already rented)\b"
)


def says_credentials_are_dead(status: int, code: str, text: str) -> bool:
    """True if the account's key or session is not valid. `code` and `text` are in lower case."""
    if status == 401:
        return True
    words = _OTHER_KEYS.sub("", f"{code} {text}")
    if _DEAD.search(words):
        return True
    if _NAMED_CAUSES.search(words):
        return False
    return bool(_DEAD_CODE.fullmatch(code) or _DEAD_UNLESS_NAMED.search(words))


def says_instance_is_gone(status: int, code: str, text: str, instance_id: InstanceId, *, loosely: bool) -> bool:
    """True if a refusal says that the instance does not exist. `loosely`: also if the text is ambiguous."""
    named = set(_NAMED_INSTANCE.findall(text))
    if status >= 500 or (named and instance_id not in named):
        return False
    if code == "no_such_instance" or "no_such_instance" in text:
        return True
    if status not in (404, 410) and not (loosely and code == "not_found"):
        return False
    if _OF_THE_CALL.search(f"{code} {text}"):
        return False
    if _NONE_SUCH.search(text) or (status == 410 and code in ("gone", "instance_gone")):
        return True
    if loosely and code == "not_found":
        return True
    # For `get`, a 404 is proof only if it names this instance: it may also mean a bad key or a wrong path.
    return bool(_IS_GONE.search(text)) and (loosely or status == 410 or instance_id in named)


def says_volume_is_gone(status: int, code: str, text: str, number: str) -> bool:
    """True if a refusal says that the volume with this number does not exist. An ambiguous "not found" is enough."""
    named = set(_NAMED_VOLUME.findall(text))
    if status >= 500 or (named and number not in named):
        return False
    if code == "no_such_volume" or "no_such_volume" in text:
        return True
    if _OF_THE_CALL.search(f"{code} {text}"):
        return False
    return code == "not_found" or (status in (404, 410) and bool(_VOLUME_IS_GONE.search(text)))


def says_volume_is_taken(text: str) -> bool:
    """True if a refusal says that an instance has the volume."""
    return "volume" in text and bool(_VOLUME_IS_TAKEN.search(text))


def says_offer_is_gone(text: str) -> bool:
    """True if a refusal of a create says that the offer is not available."""
    return bool(_OFFER_IS_GONE.search(text))
