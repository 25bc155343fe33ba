"""What Alembic runs: the tables of udig_recon.worker.database.tables on the database of the settings."""

from alembic import context
from sqlalchemy import text

from udig_recon.worker.database import locks
from udig_recon.worker.database.engine import make_engine
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Base
from udig_recon.worker.settings import get_settings


def run() -> None:
    url = context.config.attributes.get("url") or get_settings().database_url
    if url is None:
        raise SystemExit("DATABASE_URL is not set")
    if context.is_offline_mode():
        context.configure(url=url, target_metadata=Base.metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
        return
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            # Waiting for the other process, and an index of a large table, may take longer than any statement of the
            # service should.
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(text(f"SET {name} = 0"))
            connection.commit()
            locks.hold_while_connected(connection, Lock.MIGRATION)
            context.configure(connection=connection, target_metadata=Base.metadata)
            # One transaction, which every step of `worker.database.online` commits.
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()


run()
