"""Mistakes that matter where several servers use one database. See `mistakes`."""

from scripts.planting import Mistake

OF_SERVERS = (
    Mistake(
        "a limit is read at a snapshot",
        "store/postgres/commits.py",
        'f"BEGIN ISOLATION LEVEL READ COMMITTED; {LIMITS}; SELECT pg_advisory_xact_lock({LOCK})"',
        'f"BEGIN ISOLATION LEVEL REPEATABLE READ; {LIMITS}; SELECT pg_advisory_xact_lock({LOCK})"',
    ),
    Mistake(
        "an ambiguous commit is taken for a failure",
        "store/postgres/writer.py",
        "                found = commits.was_committed(self._connected(), self.name, self._batch)\n",
        "                found = False\n",
    ),
    Mistake(
        "a claim is not fenced",
        "store/claims.py",
        '    held = row is not None and (row["owner"], row["fence"]) == (claim.owner, claim.fence)',
        '    held = row is not None and row["owner"] == claim.owner',
    ),
    Mistake(
        "periodic work is written without its claim",
        "runtime/claims.py",
        "            self._claim.require(tx)\n            return fn(tx)",
        "            return fn(tx)",
    ),
    Mistake(
        "a pass over an account is written without its claim",
        "reconcile/observe.py",
        "        claims.require(tx, claim)\n        write_all(",
        "        write_all(",
    ),
    Mistake(
        "offers are stored without the claim",
        "catalog/shared.py",
        "            self._claims[name].require(tx)\n",
        "",
    ),
    Mistake(
        "an event is sent without the claim on its webhook",
        "webhooks/sending.py",
        "            self.claim.require(tx)\n        except ClaimLost:",
        "            tx.now()\n        except ClaimLost:",
    ),
    Mistake(
        "a call that was taken over goes on to rent",
        "rental/joins.py",
        'or has concluded it."""\n        self.claim.require(tx)',
        'or has concluded it."""',
    ),
    Mistake(
        "a silent database is waited for without a limit",
        "store/postgres/connecting.py",
        "            elif monotonic() >= until:",
        "            elif monotonic() < 0:",
    ),
    Mistake(
        "the order of events is by the clocks of replicas",
        "store/events.py",
        '"SELECT coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM events"',
        'f"SELECT {micros(tx.now())} * 100 + count(*) % 100, ?, ?, ?, ?, ?, ?, ? FROM events"',
    ),
    Mistake(
        "a replica paces the creates of an account by itself",
        "outcomes/record.py",
        "    if shared and (early := (pace",
        "    if not shared and (early := (pace",
    ),
    Mistake(
        "a replica trusts its own date",
        "app/deployment.py",
        "    if not db.exclusive:\n        began = clock.monotonic()",
        "    if db is None:\n        began = clock.monotonic()",
    ),
    Mistake(
        "a replica believes in its claim for as long as the database",
        "runtime/claims.py",
        "_BELIEVED = 5 / 6",
        "_BELIEVED = 2.0",
    ),
)
