"""Every statement that stories in virtual time make is understood by PostgreSQL too, without running them there."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from gpuproxy.store.sqlite.database import SqliteTx
from tests import databases, postgres
from tests.simulation import markets, pools, story, takeover

pytestmark = [databases.sqlite_only, pytest.mark.long]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "told", [story, markets, pools, takeover], ids=lambda module: module.__name__.rpartition(".")[2]
)
def test_the_statements_of_a_story_are_understood(told: Any, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, tuple[Any, ...]] = {}
    run = SqliteTx._run

    def noting(tx: SqliteTx, sql: str, params: Sequence[Any], *, rows: bool = False) -> Any:
        seen.setdefault(sql, tuple(str(each) if isinstance(each, str) else each for each in params))
        return run(tx, sql, params, rows=rows)

    monkeypatch.setattr(SqliteTx, "_run", noting)
    for seed in range(7000, 7003):
        told.run(seed)
    wrong = []
    with psycopg.connect(postgres.fresh(), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        for sql, params in seen.items():
            try:
                connection.execute(f"EXPLAIN {postgres.translate(sql)}", params)
            except psycopg.Error as error:
                wrong.append(f"{error}: {sql}")
    assert not wrong
    assert len(seen) > 50


@pytest.mark.parametrize(
    ("sql", "translated"),
    [
        ("SELECT '?', '%' FROM a WHERE b = ? AND c LIKE 'x%'", "SELECT '?', '%%' FROM a WHERE b = %s AND c LIKE 'x%%'"),
        ("SELECT a % 2 FROM b", "SELECT a %% 2 FROM b"),
        ("SELECT max(a) FROM b", "SELECT max(a) FROM b"),
        ("SELECT max(?, coalesce(max(a, 2) + 1, 0)), min(f(a, b))",
         "SELECT greatest(%s, coalesce(greatest(a, 2) + 1, 0)), min(f(a, b))"),
        ("SELECT window FROM a CROSS JOIN b ON a.x = b.x", 'SELECT "window" FROM a JOIN b ON a.x = b.x'),
        ("SELECT a IS NOT NULL, a IS NOT b", "SELECT a IS NOT NULL, a IS DISTINCT FROM b"),
        ("SELECT json_extract(e.data, '$.reason') FROM e", "SELECT (e.data::json ->> 'reason') FROM e"),
        ("SELECT 1 FROM json_each(labels) WHERE json_extract(value, '$[0]') = ?",
         "SELECT 1 FROM json_array_elements(labels::json) AS each (value) WHERE (value::json ->> 0) = %s"),
        ("SELECT value FROM json_each(?)", "SELECT value FROM json_array_elements_text((%s)::json) AS each (value)"),
        ("SELECT 'it''s ?' WHERE a = ?", "SELECT 'it''s ?' WHERE a = %s"),
    ],
)  # fmt: skip
def test_a_statement_is_translated(sql: str, translated: str):
    assert postgres.translate(sql) == translated
