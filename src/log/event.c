/*-------------------------------------------------------------------------
 * log/event.c
 *	  From a stored row to an es_event, and who may see it.
 *
 * The read functions go to the table below the executor, so they have to see
 * to row-level security themselves.  For a user to whom policies apply, each
 * event that is about to be returned is looked up once more by an ordinary
 * query of that user; a row that the policies hide is skipped like a gap.
 * The walk along the global order itself ignores policies: it only learns
 * that a position is taken.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "base/compat.h"
#include "log/durable.h"
#include "log/event.h"
#include "log/sql.h"
#include "log/stream.h"
#include "log/type.h"

/* the attributes of type es_event */
const EsAttribute es_out_attributes[Natts_es_out] = {
	{"global_position", INT8OID},
	{"stream_id", TEXTOID},
	{"version", INT8OID},
	{"event_id", UUIDOID},
	{"event_type", TEXTOID},
	{"schema_version", INT4OID},
	{"data", JSONBOID},
	{"metadata", JSONBOID},
	{"created_at", TIMESTAMPTZOID}
};

/* its plan adapts to role and policies by itself */
static EsSql es_row_filter_query =
ES_SQL("SELECT 1 FROM event_store.event WHERE global_position OPERATOR(pg_catalog.=) $1",
	   1, INT8OID);

struct EsRowFilter
{
	Oid			userid;			/* whose policies */
};

/*
 * Prepare to ask the policies.
 *
 * Result: NULL when none apply to the current user.
 * Errors: 42501 when the user has turned row_security off, or may not ask.
 */
EsRowFilter *
es_row_filter_begin(Relation event)
{
	EsRowFilter *filter;

	if (likely(check_enable_rls(RelationGetRelid(event), InvalidOid, false) != RLS_ENABLED))
		return NULL;
	if (pg_class_aclcheck(RelationGetRelid(event), GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(RelationGetRelid(event), GetUserId(), ACL_SELECT,
								  ACLMASK_ANY) != ACLCHECK_OK)
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("permission denied to read events under row-level security"),
				errdetail("Its policies are asked with the rights of who reads."),
				errhint("es_grant('%s', 'reader') gives what that takes.",
						GetUserNameFromId(GetUserId(), true)));

	filter = palloc(sizeof(EsRowFilter));
	filter->userid = GetUserId();
	return filter;
}

/*
 * May the user see the event at this position?  Asked with the active
 * snapshot.
 *
 * The user is the one who was the current user at es_row_filter_begin: a
 * cursor may have outlived SET ROLE.
 */
bool
es_row_filter_passes(EsRowFilter *filter, int64 position)
{
	Datum		args[1] = {Int64GetDatum(position)};
	Oid			userid;
	int			context;
	bool		passes;

	if (likely(filter == NULL))
		return true;

	/* an error puts it back, too */
	GetUserIdAndSecContext(&userid, &context);
	if (unlikely(userid != filter->userid))
		SetUserIdAndSecContext(filter->userid, context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	passes = es_sql_read(&es_row_filter_query, args, NULL) > 0;
	SPI_finish();
	if (unlikely(userid != filter->userid))
		SetUserIdAndSecContext(userid, context);
	return passes;
}

void
es_row_filter_end(EsRowFilter *filter)
{
	if (filter != NULL)
		pfree(filter);
}

/*
 * The columns of es_event for a row of the event table, as the event is
 * stored.
 *
 * values		Natts_es_out results, none is null but for an event without
 *				stream (es_event_nulls); by-reference ones point into the
 *				slot or into the current memory context
 *
 * Result: its type, good until the next call of a function of log/type.c.
 */
EsType *
es_event_stored_values(const EsStore *store, TupleTableSlot *slot, Datum *values)
{
	EsType	   *type;

	slot_getallattrs(slot);
	values[Anum_es_out_stream_id - 1] = (Datum) 0;
	values[Anum_es_out_version - 1] = (Datum) 0;
	if (likely(!slot->tts_isnull[Anum_es_event_stream_no - 1]))
	{
		int			len;
		const char *stream;

		stream = es_stream_name(store,
								DatumGetInt64(slot->tts_values[Anum_es_event_stream_no - 1]),
								&len);
		values[Anum_es_out_stream_id - 1] =
			PointerGetDatum(cstring_to_text_with_len(stream, len));
		values[Anum_es_out_version - 1] =
			Int64GetDatum(DatumGetInt32(slot->tts_values[Anum_es_event_version - 1]));
	}
	type = es_type_lookup(store, DatumGetInt32(slot->tts_values[Anum_es_event_type_no - 1]));
	values[Anum_es_out_event_type - 1] =
		PointerGetDatum(cstring_to_text_with_len(type->name, type->name_len));

	values[Anum_es_out_global_position - 1] = slot->tts_values[Anum_es_event_global_position - 1];
	values[Anum_es_out_event_id - 1] = slot->tts_values[Anum_es_event_event_id - 1];
	values[Anum_es_out_schema_version - 1] = slot->tts_values[Anum_es_event_schema_version - 1];
	values[Anum_es_out_data - 1] = slot->tts_values[Anum_es_event_data - 1];
	values[Anum_es_out_metadata - 1] = slot->tts_values[Anum_es_event_metadata - 1];
	values[Anum_es_out_created_at - 1] = slot->tts_values[Anum_es_event_created_at - 1];
	return type;
}

/*
 * The tags of a stored event; NULL if it has none.
 */
ArrayType *
es_event_tags(const EsStore *store, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		tags;

	if (store->tags == 0)
		return NULL;
	tags = slot_getattr(slot, store->tags, &isnull);
	return isnull ? NULL : DatumGetArrayTypeP(tags);
}

/*
 * The first tag of an event; NULL if it has none.
 */
static text *
es_event_first_tag(const EsStore *store, TupleTableSlot *slot)
{
	ArrayType  *array = es_event_tags(store, slot);
	Datum	   *tags;

	return array != NULL && es_tags_elements(array, &tags) > 0 ? DatumGetTextPP(tags[0]) : NULL;
}

/*
 * The order number, see below, of events that belong to no stream.
 *
 * tag			their first one; NULL = none
 */
int64
es_event_tag_order(const text *tag)
{
	return tag == NULL ? -1 : -1 -
		(int64) (es_tag_hash(VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag)) >> 2);
}

/*
 * A number that two events share if one has to wait for the other wherever
 * order is kept: that of their stream, or, negative, of the first tag of
 * events that belong to none.
 */
int64
es_event_order_number(const EsStore *store, TupleTableSlot *slot)
{
	bool		isnull;
	int64		stream_no = DatumGetInt64(slot_getattr(slot, Anum_es_event_stream_no, &isnull));

	if (likely(!isnull))
		return stream_no;
	return es_event_tag_order(es_event_first_tag(store, slot));
}

/*
 * The same as a text: the name of the stream, or a control character, which
 * no name contains, and the first tag.
 */
text *
es_event_order_key(const EsStore *store, TupleTableSlot *slot)
{
	bool		isnull;
	int64		stream_no = DatumGetInt64(slot_getattr(slot, Anum_es_event_stream_no, &isnull));
	text	   *tag;
	int			len;

	if (likely(!isnull))
	{
		const char *name = es_stream_name(store, stream_no, &len);

		return cstring_to_text_with_len(name, len);
	}
	tag = es_event_first_tag(store, slot);
	len = tag == NULL ? 0 : VARSIZE_ANY_EXHDR(tag);
	return cstring_to_text(psprintf("\t%.*s", len, tag == NULL ? "" : VARDATA_ANY(tag)));
}

/*
 * The last version of a stream that a snapshot shows, maybe not yet on disk;
 * 0 if there is none.
 *
 * known		a version from which on to look first, 0 = none.  Backwards from
 *				the end nbtree reads whatever matches on a page, which for a
 *				long stream is hundreds of entries
 * xmin			result, may be NULL: who appended it
 * chain		result, may be NULL: its hash
 */
int64
es_event_last(Relation event, const EsStore *store, Snapshot snapshot, int64 stream_no,
			  int64 known, TransactionId *xmin, EsChain *chain)
{
	Relation	index = es_store_open_index(&store->read_index[ES_INDEX_STREAM]);
	TupleTableSlot *slot = table_slot_create(event, NULL);
	IndexScanDesc scan = es_index_beginscan(event, index, snapshot, 2);
	ScanKeyData keys[2];
	int64		version = 0;
	bool		isnull;
	bool		found;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT4GE,
				Int32GetDatum((int32) known));
	index_rescan(scan, keys, 2, NULL, 0);
	found = index_getnext_slot(scan, BackwardScanDirection, slot);
	if (!found && known > 0)
	{
		/* it has been rolled back, or is not visible */
		keys[1].sk_argument = Int32GetDatum(0);
		index_rescan(scan, keys, 2, NULL, 0);
		found = index_getnext_slot(scan, BackwardScanDirection, slot);
	}
	if (found)
	{
		version = DatumGetInt32(slot_getattr(slot, Anum_es_event_version, &isnull));
		if (xmin != NULL)
			*xmin = es_slot_xmin(slot);
		if (chain != NULL && store->hash != 0)
		{
			Datum		hash = slot_getattr(slot, store->hash, &isnull);

			/* what is no hash of ours is found by es_verify */
			if (!isnull && VARSIZE_ANY_EXHDR(DatumGetByteaPP(hash)) == ES_HASH_LEN)
			{
				chain->begun = true;
				memcpy(chain->last, VARDATA_ANY(DatumGetByteaPP(hash)), ES_HASH_LEN);
			}
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return version;
}

/*
 * The same, on disk, for whoever is not about to append to the stream.
 */
int64
es_event_version(Relation event, const EsStore *store, Snapshot snapshot, int64 stream_no,
				 TransactionId *xmin)
{
	int64		version = es_event_last(event, store, snapshot, stream_no, 0, xmin, NULL);

	es_durable_wait();
	return version;
}
