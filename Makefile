# event_store: an event store inside PostgreSQL
#
#   make && sudo make install && make installcheck    against your own server
#   make demo | make check                            on a fresh Debian machine
#   make FAULTS=1                                     test build with fault points

EXTENSION    = event_store
EXTVERSION  := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)
MODULE_big   = event_store
OBJS         = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA         = $(sort $(wildcard sql/$(EXTENSION)--*.sql))
PG_CPPFLAGS  = -Isrc -DES_VERSION='"$(EXTVERSION)"'
ifdef FAULTS
PG_CPPFLAGS += -DES_FAULTS
endif

REGRESS      = append append_errors idempotency read snapshot wait subscription group guard privileges upcast aggregate projection
REGRESS_OPTS = --load-extension=$(EXTENSION)

PG_CONFIG   ?= pg_config

# Goals that set up the machine first and so must not need pg_config.
SCRIPT_GOALS = demo check bench check-matrix

ifneq ($(filter $(SCRIPT_GOALS),$(MAKECMDGOALS)),)

.PHONY: $(SCRIPT_GOALS)
demo check:
	@exec bash test/$@.sh
bench:
	@exec bash test/bench/run.sh
check-matrix:
	@exec bash test/matrix.sh

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
ISOLATION      = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --load-extension=$(EXTENSION)
endif

include $(PGXS)

$(OBJS): $(wildcard src/*.h src/*/*.h)

endif
