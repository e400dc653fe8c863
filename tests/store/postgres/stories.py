"""Statements that make the triggers of the schema act, with their parameters."""

from typing import Any

_HOLD = (
    "INSERT INTO spend_holds (lease_id, project, key_id, gpus, rate, peak, since, until, paid_until, booked, extra, "
    "lead, checked_at) VALUES ('l', 'p', 'k', 1, ?, ?, 0, ?, ?, 0, 0, 0, 0)"
)
_LIMIT = "INSERT INTO spend_limits VALUES ('x', 'global', '', '60min', ?, 1000000, 'no_new', '', '', 0, 0, 0, 0, 0, 0)"
_LEASE = (
    "INSERT INTO leases ("
    "id, reservation_id, project, attempt, provider, account, label, offer_id, host, conflict_keys, gpu_model, "
    "num_gpus, vram_gb, location, disk_gb, reliability_ppm, verified, cuda_max, price, disk_price, ceiling, "
    "state, version, created_at, billed, absent_checks, destroy_tries, reason, status_message, ssh_host, "
    "ssh_port, ports, extras) VALUES ("
    "'l', 'r', 'p', 1, 'v', 'a', 'lb', 'o', 'h', '[]', 'g', 1, 1, '', 1.5, 1, 1, 1.5, 1, 1, 1, 'active', 1, 1, '', 0, "
    "0, '', '', '', 0, '[]', '[]')"
)
_RESERVATION = (
    "INSERT INTO reservations (id, project, request_id, fingerprint, count, least, keep, strategy, labels, created_at, "
    "version, replace_unready, ready_timeout_s, closing, message, state) "
    "VALUES ('r', 'p', ?, 'f', 1, 1, 1, '', '{}', 1, 1, 1, 1.5, '', '', 'active')"
)
_BEGIN = ((_RESERVATION, ("q",)), (_LEASE, ()))
_METER = "INSERT INTO meters (lease_id, opened_at, closed_at, rate, project) VALUES ('l', ?, ?, ?, 'p')"
_HUGE = 9_000_000_000_000_000
STORIES: dict[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "a meter is inserted closed, one is closed, and both are forgotten": (
        *_BEGIN,
        (_METER, (5, 9_999_999_999, 123_457)),
        (_METER, (9_999_999_999, None, 99_999_999_999_999_999)),
        ("UPDATE meters SET closed_at = 77777777777 WHERE closed_at IS NULL", ()),
        ("UPDATE meters SET closed_at = closed_at + 1", ()),
        ("DELETE FROM meters WHERE opened_at = 5", ()),
    ),
    "charges and bookings are counted and forgotten": (
        *_BEGIN,
        ("INSERT INTO settlements VALUES ('l', 1, 10, 5, 5, 'p'), ('l', 2, 9, 5, 0, 'p'), ('l', 3, 9, 5, -1, 'p')", ()),
        ("DELETE FROM settlements WHERE at < 3", ()),
        ("INSERT INTO bookings VALUES ('l', 1, 'p', 'create', 'confirmed', 1, 70, 0, 0, 0, 'k1', 1, 1, 1, 1, '')", ()),
        ("INSERT INTO bookings VALUES ('l', 2, 'p', 'extend', 'sent', 1, 30, 0, 0, 0, 'k2', 1, 1, 1, 1, '')", ()),
        ("UPDATE bookings SET state = 'confirmed'", ()),
        ("DELETE FROM bookings WHERE number = 1", ()),
    ),
    "states of leases and reservations are counted, and a charge is due again": (
        *_BEGIN,
        ("UPDATE leases SET state = 'released', charge_final = 1", ()),
        ("UPDATE leases SET ended_at = 5", ()),
        ("UPDATE reservations SET state = 'released'", ()),
        ("UPDATE reservations SET state = 'released'", ()),
        ("DELETE FROM leases", ()),
        ("DELETE FROM reservations", ()),
    ),
    "a request_id that is forgotten stays in use": (
        ("INSERT INTO forgotten_reservations VALUES ('old', 'p', 'q', 'f', 1, 1)", ()),
        (_RESERVATION, ("other",)),
        ("DELETE FROM reservations", ()),
        (_RESERVATION, ("q",)),
    ),
    "the ledger is summed and never changed": (
        ("INSERT INTO ledger VALUES (1, 1, 1, 1, 1, 'cost:p', 'gpu', 'l', 'p', '', 'v', 'a', 5, 0)", ()),
        ("INSERT INTO ledger VALUES (2, 1, 1, 1, 1, 'cost:p', 'gpu', 'l', 'p', '', 'v', 'a', 7, 0)", ()),
        ("UPDATE ledger SET amount = 1", ()),
        ("DELETE FROM ledger", ()),
        ("INSERT INTO ledger VALUES (1, 1, 1, 1, 1, 'cost:p', 'gpu', 'l', 'p', '', 'v', 'a', 5, 0)", ()),
        ("INSERT INTO ledger VALUES (3, 1, 1, 5, 1, 'cost:p', 'gpu', 'l', 'p', '', 'v', 'a', 5, 0)", ()),
        ("INSERT INTO ledger VALUES (4, 1, 1, 1, 1, 'cost:p', 'gpu', 'l', 'p', '', 'v', 'a', 0, 0)", ()),
    ),
    "the audit trail is never changed": (
        ("INSERT INTO audit VALUES (1, 1, 'p', 'u', 'k', 'a', 's', 'd')", ()),
        ("UPDATE audit SET detail = ''", ()),
        ("DELETE FROM audit", ()),
    ),
    **{
        f"holds of {rate} until {until}, {name}": (
            *_BEGIN,
            (_LIMIT, (length,)),
            ("UPDATE spend_limits SET posted_until = 7200000000, posted = 100, posted_at = ?", (at,)),
            (_HOLD, (rate, rate, until, paid)),
            ("UPDATE spend_holds SET until = until + 3600000000", ()),
            ("UPDATE spend_holds SET until = until - 1, rate = rate + 1", ()),
            ("UPDATE spend_holds SET extra = 1000000", ()),
            ("UPDATE spend_holds SET forced = 1, until = ?", (_HUGE,)),
        )
        for rate in (1, 500_000, 999_900, 1_000_000, 10**14)
        for until in (3_600_000_000, 3_599_999_999, _HUGE)
        for name, length, at, paid in (
            ("a sliding window", 3_600_000_000, 0, None),
            ("a month", 0, 0, None),
            ("a window that was not read", 3_600_000_000, 1, None),
            ("a booking that is paid", 3_600_000_000, 0, 1_800_000_000),
        )
    },
}  # fmt: skip
SHOWN = (
    "spent", "lease_counts", "reservation_counts", "transaction_counts", "ledger_balances", "ledger", "audit", "leases",
    "reservations", "meters", "spend_holds", "bookings",
)  # fmt: skip
