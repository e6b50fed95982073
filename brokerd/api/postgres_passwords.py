"""Submitted passwords in Postgres: what is known of the newest, and how a newer one is kept."""

from datetime import UTC

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from brokerd.api.ports import SubmittedPassword
from brokerd.api.submission import Found
from brokerd.connector.provisioning.ports import CredentialState, KeptPassword
from brokerd.domain import AccountId

_READ = sa.text("""
SELECT clock_timestamp() AS now, a.credential_version, c.digest, c.state,
  coalesce(a.metaapi_account_id, a.created_account_id) IS NOT NULL AS is_provisioned,
  c.sealed IS NOT NULL AS is_sealed,
  EXISTS (SELECT FROM brokerd.intents AS i
    WHERE i.account_id = a.account_id AND i.credential_version = c.version
      AND i.kind IN ('create', 'update', 'deploy') AND i.code NOT IN ('done', 'abandoned')
  ) AS was_refused,
  EXISTS (SELECT FROM brokerd.rejected_credentials AS r
    WHERE r.digest = ANY(:digests) AND r.forget_at > clock_timestamp()) AS is_known_bad
FROM brokerd.accounts AS a LEFT JOIN brokerd.credentials AS c
  ON c.account_id = a.account_id AND c.version = a.credential_version
WHERE a.account_id = :account_id
""")

# An older password is erased unless a call that is under way still needs it.
_WRITE = sa.text("""
WITH raised AS (
  UPDATE brokerd.accounts SET credential_version = credential_version + 1
  WHERE account_id = :account_id RETURNING account_id, credential_version
), kept AS (
  INSERT INTO brokerd.credentials (account_id, version, digest, key_id, sealed)
  SELECT account_id, credential_version, :digest, :key_id, :sealed FROM raised
), erased AS (
  UPDATE brokerd.credentials AS c SET sealed = NULL FROM raised
  WHERE c.account_id = raised.account_id AND c.sealed IS NOT NULL
    AND NOT EXISTS (SELECT FROM brokerd.intents AS i WHERE i.account_id = c.account_id
      AND i.closed_at IS NULL AND i.credential_version = c.version)
)
SELECT credential_version FROM raised
""")


async def read(
    connection: AsyncConnection, account_id: AccountId, password: SubmittedPassword
) -> Found:
    """Read what is known of an account's newest password, and of the one submitted."""
    values = {"account_id": account_id, "digests": list(password.digests)}
    row = (await connection.execute(_READ, values)).one()
    kept = None
    if row.digest is not None:
        kept = KeptPassword(
            digest=row.digest,
            state=CredentialState(row.state),
            is_sealed=row.is_sealed,
            was_refused=row.was_refused,
        )
    return Found(
        now=row.now.astimezone(UTC),
        version=row.credential_version,
        is_provisioned=row.is_provisioned,
        kept=kept,
        is_known_bad=row.is_known_bad,
    )


async def write(
    connection: AsyncConnection, account_id: AccountId, password: SubmittedPassword
) -> int:
    """Keep a newer password; return its version."""
    written = await connection.execute(
        _WRITE,
        {
            "account_id": account_id,
            "digest": password.digest,
            "key_id": password.sealed.key_id,
            "sealed": password.sealed.box,
        },
    )
    return int(written.scalar_one())
