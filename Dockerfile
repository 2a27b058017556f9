# PostgreSQL with the event store:
#
#   docker build -t event_store .
#   docker run --name store -d event_store
#   docker exec -it store psql
#
# Beyond the container: create a role with a password, and publish port 5432.
# test/packages.sh runs these steps where there is no docker, too.
FROM debian:bookworm-slim

ENV LANG=C.UTF-8
RUN apt-get update && \
    apt-get install -y --no-install-recommends postgresql-15 postgresql-server-dev-15 gcc make libc6-dev && \
    rm -rf /var/lib/apt/lists/*

COPY . /usr/src/event_store
RUN make -C /usr/src/event_store PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config with_llvm=no install && \
    make -C /usr/src/event_store/contrib/message_db PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config with_llvm=no install && \
    rm -rf /usr/src/event_store && \
    apt-get purge -y --auto-remove postgresql-server-dev-15 gcc make libc6-dev

RUN pg_conftool 15 main set listen_addresses '*' && \
    pg_conftool 15 main set shared_preload_libraries event_store && \
    echo 'host all all all scram-sha-256' >>/etc/postgresql/15/main/pg_hba.conf

USER postgres
VOLUME /var/lib/postgresql
EXPOSE 5432
STOPSIGNAL SIGINT
CMD ["/usr/lib/postgresql/15/bin/postgres", "-c", "config_file=/etc/postgresql/15/main/postgresql.conf"]
