#!/bin/sh
# Run once by the image of Postgres, when its volume is empty: the roles of worker/database/roles.py, each with its password.
set -eu
psql --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set=owner_password="$(cat /run/secrets/owner_password)" \
    --set=service_password="$(cat /run/secrets/service_password)" <<'SQL'
CREATE ROLE udig_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE udig_service LOGIN PASSWORD :'service_password';
CREATE DATABASE udig OWNER udig_owner;
SQL
