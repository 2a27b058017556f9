# in the overlay of 18, /tmp/source is the tree
set -e
cd /tmp/source
pc=/usr/lib/postgresql/18/bin/pg_config
cat >> test/malloc.c <<'C'
#include <execinfo.h>
#include <signal.h>
#include <unistd.h>
static void segv(int sig) { void *f[60]; int n; es_malloc_left = 0; n = backtrace(f, 60); backtrace_symbols_fd(f, n, 2); signal(sig, SIG_DFL); raise(sig); }
__attribute__((constructor)) static void init(void) { void *f[2]; backtrace(f, 2); signal(SIGSEGV, segv); }
C
# only the third part
sed -i 's/^random_cancels();$//; s/^fault_points();$//' test/t/011_cancel.pl
cp -r . /tmp/faults; (cd /tmp/faults; make -s FAULTS=1 with_llvm=no PG_CONFIG=$pc all >/dev/null 2>&1)
make -s with_llvm=no PG_CONFIG=$pc all install >/dev/null 2>&1
chown -R postgres /tmp/source /tmp/faults; mkdir -p /tmp/w/tmp; chown -R postgres /tmp/w
tests=/usr/lib/postgresql/18/lib/pgxs/src/test
for i in 1 2 3 4 5 6; do
setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp/w TMPDIR=/tmp/w/tmp TESTDIR=/tmp/w TESTDATADIR=/tmp/w/tmp_check TESTLOGDIR=/tmp/w/tmp_check/log PG_CONFIG=$pc PATH=/usr/lib/postgresql/18/bin:$PATH PG_REGRESS=$tests/regress/pg_regress ES_FAULTS_LIBDIR=/tmp/faults ES_CANCEL_ALLOCATIONS=60 perl -I $tests/perl -I test/perl test/t/011_cancel.pl > /tmp/w/out 2>&1 && echo "run $i fine" || { echo "run $i failed"; grep -n 'not ok' /tmp/w/out | head; tail -5 /tmp/w/out; grep -a -B2 -A40 'signal 11\|es_malloc.so' /tmp/w/tmp_check/log/011_cancel_memory.log | head -90; break; }
done
