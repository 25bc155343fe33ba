"""What the service's role of the database may do: change rows, and nothing else."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.database import roles
from udig_recon.worker.database.engine import make_engine
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.tables import Base
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.servers import SUPERUSER

REFUSED = (
    "UPDATE audit SET actor = 'x'",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "ALTER TABLE audit DISABLE TRIGGER audit_is_only_added_to",
    "ALTER TABLE audit OWNER TO udig_service",
    "DROP TRIGGER audit_is_only_added_to ON audit",
    "DROP TABLE audit CASCADE",
    "CREATE OR REPLACE FUNCTION audit_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TABLE mine (x int)",
    "CREATE RULE quiet AS ON INSERT TO audit DO INSTEAD NOTHING",
    "TRUNCATE jobs CASCADE",
    "ALTER TABLE keys ADD COLUMN x int",
    "CREATE EXTENSION plpgsql_check",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "COPY keys TO PROGRAM 'cat'",
    "COPY keys FROM '/etc/passwd'",
    "SELECT lo_import('/etc/passwd')",
    "ALTER ROLE udig_service SUPERUSER",
    "SET ROLE udig_owner",
    "SET ROLE postgres",
    "SET session_replication_role = replica",
    "ALTER SYSTEM SET fsync = off",
    "GRANT UPDATE ON audit TO udig_service; UPDATE audit SET actor = 'x'",
    "ALTER DEFAULT PRIVILEGES FOR ROLE udig_owner GRANT ALL ON TABLES TO udig_service",
)


@pytest.mark.parametrize("statement", REFUSED)
def test_the_role_of_the_service_owns_nothing(database: sessionmaker[Session], statement: str) -> None:
    with database.begin() as session:
        audit.append(session, Who("a", "open"), "job.filed", job=1)
    with pytest.raises(DBAPIError), database.begin() as session:
        session.execute(text(statement))
    with database() as session:
        assert len(list(audit.verify_entries(audit.entries(session)))) == 1


def test_no_table_and_no_function_is_the_services(database: sessionmaker[Session]) -> None:
    with database() as session:
        assert session.scalar(text("SELECT current_user")) == roles.SERVICE
        owned = "SELECT relname FROM pg_class WHERE pg_get_userbyid(relowner) = current_user"
        assert session.scalars(text(owned)).all() == []
        written = "SELECT proname FROM pg_proc WHERE pg_get_userbyid(proowner) = current_user"
        assert session.scalars(text(written)).all() == []


def test_every_table_of_the_models_can_be_read_and_added_to(database: sessionmaker[Session]) -> None:
    asked = "SELECT has_table_privilege(:name, 'SELECT') AND has_table_privilege(:name, 'INSERT')"
    with database() as session:
        for name in Base.metadata.tables:
            assert session.scalar(text(asked), {"name": name}), name


def test_too_much_power_is_told(
    settings: Settings, database: sessionmaker[Session], owner_database: sessionmaker[Session]
) -> None:
    with database() as session:
        assert roles.excess(session.connection()) is None
    with owner_database() as session:
        assert roles.excess(session.connection()) == "it owns the tables"
    assert settings.database_url is not None
    engine = make_engine(roles.with_role(settings.database_url, SUPERUSER))
    with engine.connect() as connection:
        assert roles.excess(connection) == "it is a superuser"
    engine.dispose()


def test_tables_of_a_version_without_roles_change_hands(
    settings: Settings, owner_database: sessionmaker[Session], database: sessionmaker[Session]
) -> None:
    assert settings.database_url is not None
    engine = make_engine(roles.with_role(settings.database_url, SUPERUSER))
    tables = text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    with engine.begin() as connection:
        for name in (*Base.metadata.tables, "alembic_version"):
            connection.execute(text(f"ALTER TABLE {name} OWNER TO postgres"))
            connection.execute(text(f"REVOKE ALL ON {name} FROM {roles.SERVICE}"))
    with pytest.raises(DBAPIError), database() as session:
        session.execute(text("SELECT count(*) FROM jobs"))
    with engine.begin() as connection:
        connection.execute(text(roles.MAKE_ROLES))
        connection.execute(text(roles.GIVE_TO_OWNER.replace(":", "\\:")))
    engine.dispose()
    migrate(str(settings.migration_database_url), service=roles.SERVICE)
    with database() as session:
        assert session.scalars(tables).all() == [roles.OWNER]
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 0
