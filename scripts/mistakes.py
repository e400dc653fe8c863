"""Plausible programming mistakes, as small edits of the source. `bite` checks that each of them is caught.

`old` must occur exactly once in its file. A test checks this, because an edit that does not apply proves nothing.
"""

from scripts.planting import Mistake
from scripts.server_mistakes import OF_SERVERS

MISTAKES = (
    *OF_SERVERS,
    Mistake(
        "a hold is released on an unknown outcome",
        "store/limits.py",
        "    if new.state in TERMINAL:\n        if old",
        "    if new.state in TERMINAL or new.state is LeaseState.UNKNOWN:\n        if old",
    ),
    Mistake(
        "an event is written outside the transaction of its fact",
        "store/outbox.py",
        """    tx.write(_INSERT, values)
    tx.changed(TOPIC)


# -- sending


def head(tx: Tx, target: str) -> Delivery | None:
    \"""The first event that waits for a target; None if none does.\"""
""",
        """    tx.after_commit(lambda: _UNWRITTEN.append(values))
    tx.changed(TOPIC)


_UNWRITTEN: list[tuple[str | int, ...]] = []


def head(tx: Tx, target: str) -> Delivery | None:
    while _UNWRITTEN:
        tx.execute(_INSERT, _UNWRITTEN.pop(0))
""",
    ),
    Mistake(
        "a limit is read outside the transaction",
        "store/limits.py",
        '    rows = all_holds(tx, None if any(each.scope != "project" for each in limits) else project)',
        "    rows = refusing.__dict__.setdefault(project, all_holds(tx, None))",
    ),
    Mistake(
        "watchdog acts on one read",
        "boot/sh/ending.sh",
        """        since=$now
      elif [ $((now - since)) -ge 60 ]; then""",
        """        since=$((now - 60))
      fi
      if [ $((now - since)) -ge 60 ]; then""",
    ),
    Mistake(
        "watchdog trusts the local clock",
        "boot/sh/ending.sh",
        "  end=0\n  left=$9\n",
        "  now=$(date +%s)\n  end=0\n  left=$9\n",
    ),
    Mistake(
        "a create is sent without committing that it is",
        "rental/attempt.py",
        "            turn.used = await self._write(\n                lambda tx: record.call_started(",
        "            turn.used = True\n            _ = lambda: (\n                lambda tx: record.call_started(",
    ),
    Mistake(
        "a create whose answer was lost is sent again",
        "providers/vast/adapter.py",
        '            raise OutcomeUnknown(f"the answer to a create was lost: {error}") from error',
        "            reply = await self._sent(request, secrets)",
    ),
    Mistake(
        "an empty listing is trusted although nothing confirms it",
        "reconcile/absence.py",
        "    if not (canary or scene.credit_unchanged):\n        return False\n",
        "",
    ),
    Mistake(
        "only the first page of a list is read",
        "providers/vast/adapter.py",
        "            if page.next_token is None:\n                if page.total > rows:",
        "            if page.next_token is not None or not page.next_token:\n                if page.total < 0:",
    ),
    Mistake(
        "a lease that is over is forgotten",
        "outcomes/sweep.py",
        'return "reappeared" if lease.state in TERMINAL else None',
        "return None",
    ),
    Mistake(
        "absence is proven without a quarantine",
        "reconcile/absence.py",
        "timedelta(seconds=bound if canary else 2 * bound)",
        "timedelta(0)",
    ),
    Mistake(
        "a destroy is not repeated after two tries",
        "reconcile/plan.py",
        "    if due:\n        yield Destroy(lease)",
        "    if due and lease.pending.destroy_tries < 2:\n        yield Destroy(lease)",
    ),
    Mistake(
        "labels are believed without their signature",
        "model/labels.py",
        "if not hmac.compare_digest(mac, self._mac(stem)):",
        "if not (mac and stem):",
    ),
    Mistake(
        "an unknown outcome does not lock its GPUs",
        "model/leases.py",
        "LOCKS_KEYS = frozenset({_S.REQUESTED, _S.UNKNOWN, _S.STARTING, _S.ACTIVE})",
        "LOCKS_KEYS = frozenset({_S.REQUESTED, _S.STARTING, _S.ACTIVE})",
    ),
    Mistake(
        "a row is overwritten although it has changed",
        "store/leases.py",
        'WHERE id = ? AND version = ?",  # noqa: S608 - our own column names\n'
        "        [*changes.values(), old.id, old.version],\n"
        '        otherwise=Conflict(f"lease {old.id} changed since version {old.version}"),\n',
        'WHERE id = ?",  # noqa: S608 - our own column names\n        [*changes.values(), old.id],\n',
    ),
    Mistake(
        "leases end by the host's date",
        "adapters/system.py",
        "return self._origin + timedelta(seconds=self._clock.monotonic() - self._started)",
        "return self._clock.now()",
    ),
    Mistake(
        "a caller that left keeps its machines",
        "rental/joins.py",
        "        call.abandoned = True\n        call.stop.set()\n"
        "        self._calls.start(self._close_after(call, task), call.reservation_id)",
        "        call.stop.set()",
    ),
    Mistake(
        "a machine is released as not ready while the provider does not answer",
        "reconcile/plan.py",
        "    if instance is None:\n        return Reason.NONE\n    # The first",
        "    if instance is None and lease.observed.seen_at is None and _replaced(lease, owner):\n"
        "        return Reason.NOT_READY\n    if instance is None:\n        return Reason.NONE\n    # The first",
    ),
    Mistake(
        "a create in flight when the process died counts as never sent",
        "rental/recovery.py",
        "    if lease.creation.call_started_at is None:\n        record.not_attempted(tx, lease.id,",
        "    if True:\n        from gpuproxy.model.lease_events import NotAttempted\n"
        '        leases.advance(tx, lease, NotAttempted("INTERRUPTED"))\n        record.not_attempted(tx, lease.id,',
    ),
    Mistake(
        "an accepted destroy counts as proof that the machine is gone",
        "reconcile/effects.py",
        "        leases.note(tx, lease, DestroySent(now, answer, tries, now + timedelta(seconds=wait)))",
        "        leases.advance(tx, lease, Gone())",
    ),
    Mistake(
        "a list that failed is read as an empty one",
        "reconcile/observe.py",
        "            return None\n        if self.silent_since is not None:",
        "            return Listing(began, ())\n        if self.silent_since is not None:",
    ),
    Mistake(
        "a create that fails in an unknown way counts as refused",
        "providers/vast/errors.py",
        "    if status >= 500 or answer.success is True:\n        return None",
        "    if status >= 500:\n        return _error(ProviderUnavailable, reply)\n"
        "    if answer.success is True:\n        return None",
    ),
    Mistake(
        "one listing is enough for a verdict on a machine",
        "reconcile/doubts.py",
        "        return self.looks >= _LOOKS and self.last - self.since >= timedelta(seconds=verdict_seconds)",
        "        return self.looks >= 1",
    ),
    Mistake(
        "one unanswered probe gives a machine up",
        "reconcile/doubts.py",
        "        return self.probes >= _LAST_LOOKS and self.last - self.first >= _LAST_LOOKED_FOR",
        "        return self.probes >= 1",
    ),
    Mistake(
        "machines that fail in the same way are replaced for ever",
        "rental/replacements.py",
        "    return Replacement(gpus=min(missing, left)) if left > 0",
        "    return Replacement(gpus=missing) if left is not None",
    ),
    Mistake(
        "a rental forgets its owner",
        "outcomes/record.py",
        "    if lease.state in RENTED and not owner.wants(now):",
        "    if lease.state in RENTED and owner.wants(now) is None:",
    ),
    Mistake(
        "a replacement goes to the host that failed",
        "rental/rounds.py",
        "        self._exclusions.hosts |= replacements.failed_hosts(rows)\n",
        "",
    ),
    Mistake(
        "a refusal of one account excludes the marketplace",
        "loadbalancer/exclusions.py",
        "            self.accounts.add(account)\n            return\n        if refusal.scope",
        "            self.accounts.add(account)\n        if refusal.scope",
    ),
    Mistake(
        "projects do not take turns",
        "runtime/turns.py",
        "        project = min(self._waiting, key=lambda name: self._served.get(name, 0))",
        "        project = next(iter(self._waiting))",
    ),
    Mistake(
        "a listing with unreadable rows proves absence",
        "reconcile/absence.py",
        "    if lease.creation.call_deadline is None or scene.listing is None or scene.listing.unreadable:",
        "    if lease.creation.call_deadline is None or scene.listing is None:",
    ),
    Mistake(
        "a destroy waits for the next listing",
        "app/wiring.py",
        "            *(self._due(watch) for watch in self.watches),\n",
        "",
    ),
    Mistake(
        "an orphan is destroyed by its own age and not by that of its first sighting",
        "outcomes/sweep.py",
        "now - first[i.id] >= ORPHAN_AGE",
        "now - (i.created_at or first[i.id]) >= ORPHAN_AGE",
    ),
    Mistake(
        "only the first address of a machine is probed",
        "reconcile/effects.py",
        "        if (found := await self._answering(step.ways_in)) is not None:",
        "        if (found := await self._answering(step.ways_in[:1])) is not None:",
    ),
    Mistake(
        "a machine is ready although the marketplace does not have its keys yet",
        "reconcile/plan.py",
        '    if lease.pending.keys_state == "pending" and not overdue:',
        '    if lease.pending.keys_state == "lost" and not overdue:',
    ),
    Mistake(
        "an offer that ends before the lease is rented",
        "loadbalancer/choice.py",
        "        selection = market.select(order.filter, until)",
        "        selection = market.select(order.filter, None)",
    ),
    Mistake(
        "a claim is not checked before the effect",
        "store/claims.py",
        '    if row is None or not held or moment(row["until"]) <= tx.now():',
        "    if held is None:",
    ),
    Mistake(
        "a driver's exception escapes from the database port",
        "store/sqlite/database.py",
        "            self.failure = errors.of_statement(error)\n            raise self.failure from error",
        "            raise",
    ),
    Mistake(
        "a queued start counts as a machine at rest",
        "providers/vast/instances.py",
        '{wire.cur_state, wire.next_state, wire.intended_status} == {"stopped"}',
        'wire.cur_state == "stopped"',
    ),
    Mistake(
        "a working primary is stopped because its start had no answer",
        "reconcile/effects.py",
        "    if pool_owned.was_started(tx, lease):\n",
        "    if pool_owned.was_started(tx, lease) and not tx:\n",
    ),
    Mistake(
        "a refund counts from the restart if the answer to the destroy was lost",
        "reconcile/effects.py",
        "        used = await self._used(lease, lease.instance_id)\n",
        "        used = await self._used(lease, lease.instance_id) and None\n",
    ),
    Mistake(
        "a marketplace that does not answer counts as one that calls the primary dead",
        "warmpool/signals.py",
        "    _A.NO_OPINION: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.NONE,",
        "    _A.NO_OPINION: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.LOST,",
    ),
    Mistake(
        "the incident of a failover is kept in memory only",
        "warmpool/writing.py",
        "    if act.incident is not None:\n        incident = act.incident\n        if act.opens:",
        "    if act.incident is not None and not act.opens:\n        incident = act.incident\n        if act.opens:",
    ),
    Mistake(
        "a cleanup forgets what it could not delete",
        "warmpool/ending.py",
        "    if machines or (left and not s.pool.keep_volume):\n        return Rest(SOON)\n",
        "",
    ),
    Mistake(
        "a pool's machine that was released as unfit is rented again at once",
        "warmpool/deciding.py",
        'return unfit(s, standby) or (RentMachine("standby") if s.may_try else None)',
        'return RentMachine("standby") if s.may_try else None',
    ),
    Mistake(
        "a pool that is provisioned waits without end for a host that is offline",
        "warmpool/deciding.py",
        "    if not waited or not any(is_offline(each) for each in writers):\n",
        "    if since and waited in (True, False):\n",
    ),
    Mistake(
        "a start that failed frees its money at once",
        "billing/horizons.py",
        "lease.pending.stop_at + bound < now",
        "lease.pending.stop_at < now + bound",
    ),
    Mistake(
        "the lock is taken on the container's own disk, because the volume is not mounted",
        "boot/sh/lock.sh",
        '    device=$(gp_device .) && [ "$device" ] && [ "$device" != "$(gp_device /)" ]\n',
        '    device=$(gp_device .) && [ "$device" ]\n',
    ),
    Mistake(
        "the workload is started without the lock",
        "boot/sh/bar.sh",
        "*) gp_onstart=not_run ;; esac",
        "*) ;; esac",
    ),
    Mistake(
        "a second extend is sent after a lost reply",
        "outcomes/extensions.py",
        "    stored.settle(tx, now, BookingState.UNKNOWN, message=text)\n",
        "    stored.settle(tx, now, BookingState.REFUSED, message=text)\n",
    ),
    Mistake(
        "an extension counts as not executed after one read",
        "outcomes/extensions.py",
        '    if first is None or first.at <= ended or not _agreed(first, seen):\n        return "again"\n',
        "",
    ),
    Mistake(
        "a listing decides what is booked",
        "reconcile/booked.py",
        "        yield Note(lease, BookingDoubted())\n",
        "        from gpuproxy.model.lease_facts import BookingRead\n\n"
        "        assert instance is not None\n        assert instance.booking is not None\n"
        "        yield Note(lease, BookingRead(scene.now, instance.booking.until, lease.prepaid.paid))\n",
    ),
    Mistake(
        "an unknown utilisation counts as idle",
        "reconcile/idleness.py",
        "instance.gpu_util is not None and instance.gpu_util <= limits.idle_below",
        "(instance.gpu_util or 0.0) <= limits.idle_below",
    ),
    Mistake(
        "time without listings counts as idle",
        "reconcile/idleness.py",
        "    unbroken = listing.began_at - before <= limits.idle_gap\n",
        "    unbroken = True\n",
    ),
    Mistake(
        "a machine of a warm pool is released because it is idle",
        "reconcile/idleness.py",
        'owner.kind == "reservation" and owner.concluded',
        "(owner.concluded or bool(owner.id))",
    ),
    Mistake(
        "proofs about a pool outlive the claim that they were made under",
        "warmpool/memory.py",
        "        return (claim.name, claim.fence) == (self.claim.name, self.claim.fence)",
        "        return bool(claim.name)",
    ),
    Mistake(
        "a standby is started before the old primary is fenced",
        "warmpool/failing_over.py",
        "    if (act := _looked_first(s, incident) or _fence(s, incident)) is not None:\n        return act\n",
        "",
    ),
)
