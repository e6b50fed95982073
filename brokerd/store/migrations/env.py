"""How Alembic runs here: on the connection, and inside the transaction, that it is given."""

from alembic import context

from brokerd.store.tables import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
context.run_migrations()
