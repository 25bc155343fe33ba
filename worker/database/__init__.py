"""The database: tables, connections, migrations, counters."""
