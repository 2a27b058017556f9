/*-------------------------------------------------------------------------
 * event_store.c
 *	  Entry point of the module.
 *
 * Words used throughout:
 *	  stream		the events of one thing, named {Type}-{id}
 *	  category		the part of the stream's name before the first '-'
 *	  version		place of an event in its stream: 1, 2, 3 ... without holes
 *	  position		place of an event in the global order; ascending, with gaps
 *	  settled		committed or aborted for the snapshot that looks
 *	  head			highest position with nothing unsettled before it
 *	  mark			stored proof that everything up to a position is settled
 *	  snapshot		(of a stream) its state at a version; a cache
 *
 * Everything works without shared_preload_libraries.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "append/condition.h"
#include "append/progress.h"
#include "base/compat.h"
#include "evolution/function.h"
#include "evolution/upcast.h"
#include "log/drop.h"
#include "log/durable.h"
#include "log/gaps.h"
#include "log/head.h"
#include "log/known.h"
#include "log/last.h"
#include "log/order.h"
#include "log/queue.h"
#include "log/sequence.h"
#include "log/store.h"
#include "log/stream.h"
#include "log/type.h"
#include "log/write.h"
#include "projection/projection.h"
#include "read/eventscan.h"
#include "settings.h"
#include "wakeup/listen.h"
#include "wakeup/start.h"
#include "wakeup/wakeup.h"
#include "wakeup/worker.h"

ES_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	es_guc_init();
	es_store_init();
	es_drop_init();
	es_order_init();
	es_durable_init();
	es_queue_init();
	es_gaps_init();
	es_sequence_init();
	es_last_init();
	es_known_init();
	es_head_init();
	es_stream_init();
	es_type_init();
	es_write_init();
	es_condition_init();
	es_progress_init();
	es_function_init();
	es_upcast_init();
	es_eventscan_init();
	es_start_init();
	es_wakeup_init();
	if (process_shared_preload_libraries_in_progress)
		es_listen_init();
	es_launcher_init();
	es_projection_init();
}
