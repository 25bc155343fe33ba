"""Roles of the database: one owns the tables and migrates them, the service reads and writes rows and owns nothing.

Whoever speaks for the service, by a hole in a query or with its password, cannot read files or run programs through
Postgres, alter a table, or change what stands in the audit log.
"""

from sqlalchemy import Connection, make_url, text

from udig_recon.worker.database.engine import DIALECT
from udig_recon.worker.database.tables import Audit, Base

OWNER = "udig_owner"
SERVICE = "udig_service"
ROWS = "SELECT, INSERT, UPDATE, DELETE"
ONLY_ADDED = "SELECT, INSERT"
_QUOTED = DIALECT.identifier_preparer

MAKE_ROLES = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{OWNER}') THEN CREATE ROLE {OWNER} LOGIN; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVICE}') THEN CREATE ROLE {SERVICE} LOGIN; END IF;
END $$
"""  # noqa: S608
"""Done by a superuser, who alone makes roles."""

GIVE_TO_OWNER = f"""
DO $$ DECLARE found record; BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO {OWNER}', current_database());
    FOR found IN
        SELECT format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind = 'r' AND pg_get_userbyid(c.relowner) <> '{OWNER}'
    LOOP
        EXECUTE 'ALTER TABLE ' || found.name || ' OWNER TO {OWNER}';
    END LOOP;
    FOR found IN
        SELECT p.oid::regprocedure::text AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'public' AND pg_get_userbyid(p.proowner) <> '{OWNER}'
    LOOP
        EXECUTE 'ALTER ROUTINE ' || found.name || ' OWNER TO {OWNER}';
    END LOOP;
END $$
"""  # noqa: S608
"""Done by a superuser in the service's database: tables of a version without roles change hands."""


def grant(connection: Connection, service: str) -> None:
    """Give the service's role what it needs of the tables that the current role owns.

    The audit log may be read and added to, all other rows may be changed; nothing may be emptied, altered or owned.
    """
    role = _QUOTED.quote_identifier(service)
    for table in Base.metadata.sorted_tables:
        name = _QUOTED.quote_identifier(table.name)
        connection.execute(text(f"REVOKE ALL ON {name} FROM {role}"))
        rights = ONLY_ADDED if table.name == Audit.__tablename__ else ROWS
        connection.execute(text(f"GRANT {rights} ON {name} TO {role}"))
    connection.execute(text(f"REVOKE ALL ON alembic_version FROM {role}"))
    connection.execute(text(f"GRANT SELECT ON alembic_version TO {role}"))
    connection.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"))


def grant_new_tables(connection: Connection, service: str) -> None:
    """Let the service's role use every table that the current role makes from now on; `grant` then takes from it."""
    role = _QUOTED.quote_identifier(service)
    connection.execute(text(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {ROWS} ON TABLES TO {role}"))
    connection.execute(text(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {role}"))


def role_of(url: str) -> str | None:
    """The role that a URL connects as, where it names one."""
    return make_url(url).username


def with_role(url: str, role: str) -> str:
    """The same database as another role, without a password."""
    return make_url(url).set(username=role, password=None).render_as_string(hide_password=False)


def excess(connection: Connection) -> str | None:
    """What the current role may do beyond its rows, in words; None where it is as it should be."""
    superuser, owner = connection.execute(
        text(
            "SELECT r.rolsuper, EXISTS (SELECT FROM pg_class WHERE relowner = r.oid AND relname = 'audit')"
            " FROM pg_roles r WHERE r.rolname = current_user"
        )
    ).one()
    if superuser:
        return "it is a superuser"
    return "it owns the tables" if owner else None
