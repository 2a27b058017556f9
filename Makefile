# event_store: an event store inside PostgreSQL
#
#   make && sudo make install && make installcheck    against your own server
#   make demo | make check                            on a fresh Debian machine
#   make play | make stop                             a server with the demo's data, until it is stopped
#   make check-ha                                     failover and backup, with Patroni, etcd and pgBackRest
#   make gateway && sudo make install-gateway         contrib/gateway, for KurrentDB's clients
#   make feed && sudo make install-feed               contrib/feed, to NATS, Kafka, Redis, webhooks
#   make top && sudo make install-top                 contrib/top, what a store is doing, on a terminal
#   make check-upgrade                                pg_upgrade, dump and restore from major to major, as root
#   make check-packages                               the Debian packages and the Dockerfile, as root
#   make FAULTS=1                                     test build with fault points
#   make check-malformed | check-fuzz | check-sanitizers | check-sqlsmith | soak | coverage    what takes longer, see test/README.md

EXTENSION    = event_store
EXTVERSION  := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(dir $(lastword $(MAKEFILE_LIST)))$(EXTENSION).control)
MODULE_big   = event_store

# in a VPATH build pg_config's makefile finds the sources, these look themselves
top         := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
sources     := $(patsubst $(top)/%,%,$(sort $(wildcard $(top)/src/*.c $(top)/src/*/*.c)))
headers     := $(wildcard $(top)/src/*.h $(top)/src/*/*.h)
OBJS         = $(sources:.c=.o)
PG_CPPFLAGS  = -I$(top)/src -DES_VERSION='"$(EXTVERSION)"'

# The install script of the current version is put together of one part for
# each wing of src/, in the order in which the parts need each other.
SQL_PARTS    = base log append evolution read wakeup state projection subscription permissions
DOCS         = $(patsubst $(top)/%,%,$(wildcard $(top)/doc/*.md $(top)/doc/*.svg))
script      := sql/$(EXTENSION)--$(EXTVERSION).sql
DATA         = $(filter-out $(script),$(patsubst $(top)/%,%,$(sort $(wildcard $(top)/sql/$(EXTENSION)--*.sql))))
DATA_built   = $(script)
ifdef FAULTS
PG_CPPFLAGS += -DES_FAULTS
endif

REGRESS      = append append_errors append_streams import decide decide_consumers query_streams idempotency read eventscan snapshot wait subscription group guard verify privileges upcast aggregate projection
# whatever the server's own is: where no locale was set Debian makes it SQL_ASCII
REGRESS_OPTS = --encoding=UTF8 --load-extension=$(EXTENSION)

PG_CONFIG   ?= pg_config

# Goals that set up the machine first and so must not need pg_config.
LONG_GOALS   = check-malformed check-fuzz check-sanitizers check-sqlsmith soak coverage
SCRIPT_GOALS = demo check play stop bench check-matrix check-upgrade check-ha check-packages gateway install-gateway feed \
			   install-feed top install-top $(LONG_GOALS)

ifneq ($(filter $(SCRIPT_GOALS),$(MAKECMDGOALS)),)

.PHONY: $(SCRIPT_GOALS)
demo check:
	@exec bash test/$@.sh
play:
	@exec bash test/play.sh
stop:
	@exec bash test/play.sh stop
bench:
	@exec bash test/bench/run.sh
check-matrix:
	@exec bash test/matrix.sh
check-upgrade:
	@exec bash test/upgrade.sh
check-ha:
	@exec bash test/ha/run.sh
$(LONG_GOALS):
	@exec bash test/long.sh $@
check-packages:
	@exec bash test/packages.sh
gateway feed top:
	$(MAKE) -C $(top)/contrib/$@ PG_CONFIG=$(PG_CONFIG)
install-gateway install-feed install-top:
	$(MAKE) -C $(top)/contrib/$(@:install-%=%) PG_CONFIG=$(PG_CONFIG) install

else

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error pg_config not found: install the PostgreSQL server headers, or set PG_CONFIG)
endif
PG_MAJOR := $(shell $(PG_CONFIG) --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
ifneq ($(shell test $(PG_MAJOR) -ge 13 && echo ok),ok)
$(error event_store needs PostgreSQL 13 or newer, found $(PG_MAJOR))
endif

# Debian's package for 13 does not ship the isolation tester
ifneq ($(wildcard $(dir $(PGXS))../../src/test/isolation/pg_isolation_regress),)
specs       := $(patsubst $(top)/test/isolation/specs/%.spec,%,$(sort $(wildcard $(top)/test/isolation/specs/*.spec)))
# asked when installcheck runs: a server does not allow prepared transactions unless it was told to
ISOLATION      = $(if $(filter 0 1,$(max_prepared)),$(filter-out %-prepared,$(specs)),$(specs))
max_prepared   = $(shell $(bindir)/psql -XAtq -d postgres -c 'SHOW max_prepared_transactions' 2>/dev/null)
ISOLATION_OPTS = --inputdir=$(top)/test/isolation --encoding=UTF8 --load-extension=$(EXTENSION)
endif

# no bitcode, which doubles the build and needs clang: there is nothing that a
# query would inline
override with_llvm = no

include $(PGXS)

# what an installation with bitcode has left would be inlined all the same
install: uninstall-bitcode
.PHONY: uninstall-bitcode
uninstall-bitcode:
	rm -rf '$(DESTDIR)$(pkglibdir)/bitcode/$(MODULE_big)' '$(DESTDIR)$(pkglibdir)/bitcode/$(MODULE_big).index.bc'

left_out     = $(filter-out $(ISOLATION),$(specs))

installcheck: installcheck-server
.PHONY: installcheck-server
installcheck-server:
	@test "$$($(bindir)/psql -XAtq -d postgres -c 'SHOW is_superuser')" = on || \
		{ echo "make installcheck needs a superuser of the server: sudo -u postgres createuser --superuser $$(id -un)"; exit 1; }
	@$(if $(and $(ISOLATION),$(left_out)),echo "left out because max_prepared_transactions is $(max_prepared): $(left_out)",:)

# a folder of our own for doc/, not the one of all extensions
docmoduledir := $(EXTENSION)

$(OBJS): $(headers)

# the folders of a VPATH build
$(shell mkdir -p $(sort $(dir $(OBJS) $(script))))

$(script): $(SQL_PARTS:%=$(top)/sql/install/%.sql)
	for part in $^; do cat "$$part" && echo; done | sed '$$d' >$@

endif
