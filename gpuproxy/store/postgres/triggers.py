"""Migration 1 of PostgreSQL, the triggers: the same effects as SQLite's after its migration 20. See `migrations`.

The sums follow the facts, the ledger and the audit trail are append-only, a forgotten request_id stays in use, and a
hold beyond a spending limit is refused. The comments in the schemas of SQLite's migrations say why.
"""

KEPT = frozenset({"spent", "transaction_counts", "lease_counts", "reservation_counts", "ledger_balances"})
"""The tables that triggers change when another table is changed."""
_HOUR = 3_600_000_000
_HOUR_MS = 3_600_000

FUNCTIONS = (
    f"""CREATE FUNCTION meter_cost(opened BIGINT, closed BIGINT, per_hour BIGINT) RETURNS BIGINT
        LANGUAGE sql IMMUTABLE AS $$
        SELECT least(per_hour, 100000000000000) * ((closed - opened) / {_HOUR})
            + (least(per_hour, 100000000000000) * ((closed - opened) % {_HOUR} / 60000)
            + least(per_hour, 100000000000000) * ((closed - opened) % 60000) / 60000) / 60000 $$""",
    f"""CREATE FUNCTION meter_hours(opened BIGINT, closed BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN closed > opened THEN (closed - 1) / {_HOUR} - opened / {_HOUR} + 1 ELSE 0 END $$""",
    f"""CREATE FUNCTION priced(per_hour BIGINT, microseconds BIGINT) RETURNS NUMERIC LANGUAGE sql IMMUTABLE AS $$
        SELECT div(per_hour::numeric * (greatest(0, microseconds) / 1000), {_HOUR_MS}) $$""",
    """CREATE FUNCTION held(h spend_holds, l spend_limits, now BIGINT) RETURNS NUMERIC LANGUAGE sql IMMUTABLE AS $$
        SELECT h.extra + h.booked + CASE WHEN l.length > 0 THEN
            least(priced(h.rate, h.until - coalesce(h.paid_until, now))
                + priced(h.kept_rate, h.kept_until - greatest(coalesce(h.paid_until, now), h.until)), greatest(0,
                priced(h.peak, l.length + h.lead - least(now - h.since, l.length) - h.lead) - h.booked))
            ELSE priced(h.rate, least(h.until, l.posted_until + h.lead)
                - greatest(coalesce(h.paid_until, now), l.posted_since))
                + priced(h.kept_rate, least(h.kept_until, l.posted_until + h.lead)
                - greatest(coalesce(h.paid_until, now), l.posted_since, h.until)) END $$""",
    """CREATE FUNCTION covers(l spend_limits, h spend_holds) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
        SELECT l.scope = 'global' OR (l.scope = 'project' AND l.subject = h.project)
            OR (l.scope = 'key' AND l.subject = h.key_id) $$""",
    """CREATE FUNCTION count_transactions(whose TEXT, step BIGINT) RETURNS void LANGUAGE sql AS $$
        INSERT INTO transaction_counts (project, number) VALUES (whose, step)
        ON CONFLICT (project) DO UPDATE SET number = transaction_counts.number + excluded.number $$""",
    """CREATE FUNCTION count_lease(where_ TEXT, in_state TEXT) RETURNS void LANGUAGE sql AS $$
        INSERT INTO lease_counts (provider, state, number) VALUES (where_, in_state, 1)
        ON CONFLICT (provider, state) DO UPDATE SET number = lease_counts.number + 1 $$""",
    """CREATE FUNCTION count_reservation(whose TEXT, in_state TEXT) RETURNS void LANGUAGE sql AS $$
        INSERT INTO reservation_counts (project, state, number) VALUES (whose, in_state, 1)
        ON CONFLICT (project, state) DO UPDATE SET number = reservation_counts.number + 1 $$""",
)


def _trigger(name: str, when: str, body: str, *, row: str = "NEW") -> tuple[str, str]:
    """The function of a trigger for each row, and the trigger. `when`: the event, the table and the condition."""
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN {row}; END $$",
        f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION {name}()",
    )


def _when(event: str, condition: str = "") -> str:
    return f"{event} FOR EACH ROW" + (f" WHEN ({condition})" if condition else "")


_METER_CLOSED = """UPDATE spent SET metered = metered + meter_cost(NEW.opened_at, NEW.closed_at, NEW.rate);
    PERFORM count_transactions(NEW.project, meter_hours(NEW.opened_at, NEW.closed_at));"""
_CONFIRMED = "UPDATE spent SET booked = booked + NEW.amount; PERFORM count_transactions(NEW.project, 1);"
_FORGET_ONE = "UPDATE transaction_counts SET number = number - 1 WHERE project = OLD.project;"
_LEDGER_ONLY = "RAISE EXCEPTION 'the ledger is append-only';"
_AUDIT_ONLY = "RAISE EXCEPTION 'the audit trail is append-only';"
_LIMITS = """IF EXISTS (SELECT 1 FROM spend_limits l WHERE l.policy <> 'warn' AND covers(l, NEW)
    AND held(NEW, l, NEW.checked_at) > {before} AND (l.posted_at <> NEW.checked_at OR l.posted + (
        SELECT sum(held(h, l, NEW.checked_at)) FROM spend_holds h WHERE covers(l, h)) > l.amount))
    THEN RAISE EXCEPTION 'spending limit exceeded'; END IF;"""
_LEDGER_FOUND = f"IF EXISTS (SELECT 1 FROM ledger WHERE seq = NEW.seq) THEN {_LEDGER_ONLY} END IF;"  # noqa: S608
_REQUEST_ID_TAKEN = """IF EXISTS (SELECT 1 FROM forgotten_reservations
        WHERE project = NEW.project AND request_id = NEW.request_id)
    THEN RAISE unique_violation USING TABLE = 'reservations', CONSTRAINT = 'reservations_request'; END IF;"""

TRIGGERS = (
    *_trigger(
        "meter_closed",
        _when("AFTER UPDATE OF closed_at ON meters", "OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL"),
        _METER_CLOSED,
    ),
    *_trigger("meter_inserted", _when("AFTER INSERT ON meters", "NEW.closed_at IS NOT NULL"), _METER_CLOSED),
    *_trigger(
        "meter_forgotten",
        _when("AFTER DELETE ON meters", "OLD.closed_at IS NOT NULL"),
        """UPDATE spent SET
            forgotten_metered = forgotten_metered + meter_cost(OLD.opened_at, OLD.closed_at, OLD.rate);
        UPDATE transaction_counts SET number = number - meter_hours(OLD.opened_at, OLD.closed_at)
            WHERE project = OLD.project;""",
    ),
    *_trigger(
        "settlement_inserted",
        _when("AFTER INSERT ON settlements", "NEW.amount <> 0"),
        "UPDATE spent SET adjusted = adjusted + NEW.amount; PERFORM count_transactions(NEW.project, 1);",
    ),
    *_trigger(
        "settlement_forgotten",
        _when("AFTER DELETE ON settlements", "OLD.amount <> 0"),
        f"UPDATE spent SET forgotten_adjusted = forgotten_adjusted + OLD.amount; {_FORGET_ONE}",  # noqa: S608
    ),
    *_trigger("lease_inserted", _when("AFTER INSERT ON leases"), "PERFORM count_lease(NEW.provider, NEW.state);"),
    *_trigger(
        "lease_changed_state",
        _when("AFTER UPDATE OF state ON leases", "NEW.state <> OLD.state"),
        """UPDATE lease_counts SET number = number - 1 WHERE provider = OLD.provider AND state = OLD.state;
        PERFORM count_lease(NEW.provider, NEW.state);""",
    ),
    *_trigger(
        "lease_forgotten",
        _when("AFTER DELETE ON leases"),
        "UPDATE lease_counts SET forgotten = forgotten + 1 WHERE provider = OLD.provider AND state = OLD.state;",
    ),
    *_trigger(
        "lease_ended_again",
        _when(
            "AFTER UPDATE OF ended_at ON leases", "NEW.charge_final <> 0 AND NEW.ended_at IS DISTINCT FROM OLD.ended_at"
        ),
        "UPDATE leases SET charge_final = 0 WHERE id = NEW.id;",
    ),
    *_trigger(
        "request_id_is_forgotten",
        _when("BEFORE INSERT ON reservations", "NEW.request_id <> ''"),
        _REQUEST_ID_TAKEN,
    ),
    *_trigger(
        "reservation_inserted",
        _when("AFTER INSERT ON reservations"),
        "PERFORM count_reservation(NEW.project, NEW.state);",
    ),
    *_trigger(
        "reservation_changed_state",
        _when("AFTER UPDATE OF state ON reservations", "NEW.state <> OLD.state"),
        """UPDATE reservation_counts SET number = number - 1 WHERE project = OLD.project AND state = OLD.state;
        PERFORM count_reservation(NEW.project, NEW.state);""",
    ),
    *_trigger(
        "reservation_forgotten",
        _when("AFTER DELETE ON reservations"),
        "UPDATE reservation_counts SET number = number - 1 WHERE project = OLD.project AND state = OLD.state;",
    ),
    *_trigger(
        "booking_confirmed",
        _when("AFTER UPDATE OF state ON bookings", "OLD.state <> 'confirmed' AND NEW.state = 'confirmed'"),
        _CONFIRMED,
    ),
    *_trigger("booking_inserted", _when("AFTER INSERT ON bookings", "NEW.state = 'confirmed'"), _CONFIRMED),
    *_trigger(
        "booking_forgotten",
        _when("AFTER DELETE ON bookings", "OLD.state = 'confirmed'"),
        f"UPDATE spent SET forgotten_booked = forgotten_booked + OLD.amount; {_FORGET_ONE}",  # noqa: S608
    ),
    *_trigger("ledger_is_never_changed", _when("BEFORE UPDATE ON ledger"), _LEDGER_ONLY),
    *_trigger("ledger_is_never_deleted", _when("BEFORE DELETE ON ledger"), _LEDGER_ONLY, row="OLD"),
    *_trigger("ledger_is_never_replaced", _when("BEFORE INSERT ON ledger"), _LEDGER_FOUND),
    *_trigger("audit_is_never_changed", _when("BEFORE UPDATE ON audit"), _AUDIT_ONLY),
    *_trigger("audit_is_never_deleted", _when("BEFORE DELETE ON audit"), _AUDIT_ONLY, row="OLD"),
    *_trigger(
        "ledger_posted",
        _when("AFTER INSERT ON ledger"),
        """INSERT INTO ledger_balances (account, balance) VALUES (NEW.account, NEW.amount)
            ON CONFLICT (account) DO UPDATE SET balance = ledger_balances.balance + excluded.balance;""",
    ),
    *_trigger(
        "spend_hold_inserted",
        _when("AFTER INSERT ON spend_holds", "NEW.forced = 0 AND NEW.until > NEW.since"),
        _LIMITS.format(before="0"),
    ),
    *_trigger(
        "spend_hold_raised",
        _when(
            "AFTER UPDATE ON spend_holds",
            "NEW.forced = 0 AND (NEW.until > OLD.until OR NEW.rate > OLD.rate OR NEW.extra > OLD.extra "
            "OR NEW.booked > OLD.booked OR NEW.kept_rate > OLD.kept_rate OR NEW.kept_until > OLD.kept_until)",
        ),
        _LIMITS.format(before="held(OLD, l, NEW.checked_at)"),
    ),
)

PLANNED_ONCE = tuple(
    f"ALTER FUNCTION {name} SET plan_cache_mode = force_generic_plan"
    for name in ("spend_hold_inserted()", "spend_hold_raised()")
)
"""Migration 2: what these functions ask takes longer to plan than to answer, and each plan would be the same."""
