"""What is written down in the database itself: who took and lost each claim, in the order of the commits.

A trigger writes it in the transaction of the change, with the name of the server's process. The commit's time comes
from PostgreSQL.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from scripts.cluster.postgres import Cluster

_WATCH = """
CREATE SCHEMA observed;
CREATE TABLE observed.claims (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, owner TEXT NOT NULL,
    fence BIGINT NOT NULL, process TEXT NOT NULL, at TIMESTAMPTZ NOT NULL);
CREATE FUNCTION observed.claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO observed.claims (name, kind, owner, fence, process, at)
            VALUES (OLD.name, 'drop', OLD.owner, OLD.fence, current_setting('application_name'), clock_timestamp());
    ELSIF TG_OP = 'UPDATE' AND (NEW.owner, NEW.fence) = (OLD.owner, OLD.fence) THEN
        NULL;
    ELSIF NEW.owner = '' THEN
        INSERT INTO observed.claims (name, kind, owner, fence, process, at)
            VALUES (NEW.name, 'drop', OLD.owner, NEW.fence, current_setting('application_name'), clock_timestamp());
    ELSE
        INSERT INTO observed.claims (name, kind, owner, fence, process, at)
            VALUES (NEW.name, 'take', NEW.owner, NEW.fence, current_setting('application_name'), clock_timestamp());
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER observed AFTER INSERT OR UPDATE OR DELETE ON claims FOR EACH ROW EXECUTE FUNCTION observed.claim();
"""
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ClaimChange:
    """A claim was taken or dropped."""

    name: str
    kind: str
    """"take" or "drop"."""
    owner: str
    fence: int
    process: str
    """The server's process that has written it."""
    began: int
    ended: int
    """Nanoseconds since 1970: when it was written, and when it was committed."""


def watch_claims(cluster: Cluster) -> None:
    """From now on, write down each change of a claim's owner."""
    with cluster.primary.connect() as connection:
        connection.execute(_WATCH)


def claim_changes(cluster: Cluster) -> list[ClaimChange]:
    """What was written down, in the order of the commits."""
    with cluster.primary.connect() as connection:
        rows = connection.execute(
            "SELECT name, kind, owner, fence, process, (extract(epoch FROM at) * 1000000)::bigint, "
            "(extract(epoch FROM coalesce(pg_xact_commit_timestamp(xmin), at)) * 1000000)::bigint "
            "FROM observed.claims ORDER BY seq"
        ).fetchall()
    return [ClaimChange(*row[:5], *(1000 * at for at in (row[5], max(row[5], row[6])))) for row in rows]


def add_keys(cluster: Cluster, projects: Iterable[str]) -> dict[str, str]:
    """An API key of each project."""
    keys = {project: f"gpx-{project}-0123456789abcdef0123456789" for project in projects}
    with cluster.primary.connect() as connection:
        for project, key in keys.items():
            connection.execute(
                "INSERT INTO api_keys (id, project, name, role, prefix, sha256, created_at) "
                "VALUES (%s, %s, %s, 'user', %s, %s, 0)",
                (f"key-{project}", project, project, key[:12], hashlib.sha256(key.encode()).hexdigest()),
            )
    return keys
