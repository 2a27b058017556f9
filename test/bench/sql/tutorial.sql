-- Same table and same indexes as raw; the clients do something else with it.
\ir raw.sql
