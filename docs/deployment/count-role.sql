-- The role by which KEDA counts open slices: it reads one column of one table, and nothing else. A superuser runs this
-- once in the service's database, after the first migration.
CREATE ROLE udig_count LOGIN PASSWORD :'password' CONNECTION LIMIT 10;
ALTER ROLE udig_count SET statement_timeout = '10s';
GRANT SELECT (status) ON job_slices TO udig_count;
