/*-------------------------------------------------------------------------
 * log/id.c
 *	  Event ids, and which of them have an entry in their index.
 *
 * An id that the store makes (base/uuid.c) ends with the position of its event:
 * the last 40 of the 62 random bits of a UUID of version 7.  Whoever looks for
 * such an event goes to its position, so it needs no entry in the index by
 * event id, one of four that each event would have.  The index is
 * partial: it has the rows whose id does not end with their position, among
 * them all of an older release.
 *
 * So an id is looked for in two places, at the position that it ends with, and
 * in the index, and is unique if it is unique in both together:
 *
 *	- An id that somebody gives may end with any position.  If it is that of an
 *	  event before its own, that one is looked at, and so is the index, where
 *	  its entry would meet an equal one.  If it is by chance, or because an
 *	  import brings the events of another store, its own position, it has no
 *	  entry and the index is looked at.
 *	- If it ends with the position of an event that is still to come, it has an
 *	  entry.  An id that the store makes for that event is not looked for: they
 *	  differ in their time, and in 34 bits more of which 22 are random.
 *
 * A store-made id that a client sends back is thus known for what it is.  A
 * position beyond 2^40, and an event whose hash was made before its position
 * was known, have an id without position and an entry.
 *
 * While the script of a database is still that of 0.1 its index has all ids;
 * both kinds of index are told apart by their predicate, and each is filled
 * and read as what it is.  Who looks is in log/find.c.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/id.h"
#include "log/store.h"

/* bytes of an id that hold the position */
#define ES_ID_POSITION_LEN		5

PG_FUNCTION_INFO_V1(es_id_has_position);

/*
 * The position that an id ends with; of an id that somebody has given it may
 * mean nothing.
 */
int64
es_id_position(const pg_uuid_t *id)
{
	int64		position = 0;

	for (int i = UUID_LEN - ES_ID_POSITION_LEN; i < UUID_LEN; i++)
		position = position << 8 | id->data[i];
	return position;
}

/*
 * Have an id end with its event's position.
 *
 * Result: false if that is too high.
 */
bool
es_id_take_position(pg_uuid_t *id, int64 position)
{
	if (position >> (8 * ES_ID_POSITION_LEN) != 0)
		return false;
	for (int i = UUID_LEN - 1; i >= UUID_LEN - ES_ID_POSITION_LEN; i--)
	{
		id->data[i] = (uint8) position;
		position >>= 8;
	}
	return true;
}

/*
 * es_id_has_position(event_id uuid, global_position bigint) RETURNS boolean
 *
 * For the predicate of the index by event id.
 */
Datum
es_id_has_position(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(es_id_position(PG_GETARG_UUID_P(0)) == PG_GETARG_INT64(1));
}

static bool
es_id_is_column(Node *arg, AttrNumber column)
{
	return IsA(arg, Var) && ((Var *) arg)->varattno == column;
}

/*
 * Is the predicate of an index NOT es_id_has_position(event_id, global_position)?
 *
 * predicate	OID of that function
 */
bool
es_id_index_is_partial(Relation index, Oid predicate)
{
	List	   *quals = RelationGetIndexPredicate(index);
	FuncExpr   *call;

	if (list_length(quals) != 1 || !is_notclause(linitial(quals)))
		return false;
	call = (FuncExpr *) get_notclausearg(linitial(quals));
	return IsA(call, FuncExpr) && OidIsValid(predicate) && call->funcid == predicate &&
		es_id_is_column(linitial(call->args), Anum_es_event_event_id) &&
		es_id_is_column(lsecond(call->args), Anum_es_event_global_position);
}
