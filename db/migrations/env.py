"""How Alembic runs our migrations: on the connection that `db/migrate.py` hands over, in its one transaction.

A new migration is a file in `versions/` written by hand and a higher `SCHEMA` in `db/tables.py`. Change tables with
`op.batch_alter_table`: SQLite then copies the table, PostgreSQL alters it in place.
"""

from alembic import context
from sqlalchemy import text

from db import views
from db.tables import VERSION_TABLE, Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    compare_type=True,
)
for statement in views.drop():
    connection.execute(text(statement))
context.run_migrations()
for statement in views.create(connection.dialect.name):
    connection.execute(text(statement))
