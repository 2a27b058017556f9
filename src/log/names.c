/*-------------------------------------------------------------------------
 * log/names.c
 *	  What a backend remembers of names and their numbers.
 *
 * Streams and event types are stored once, under a number, and found by
 * their number when events are read and by their name when events are
 * written.  Their rows are only ever inserted, so each backend may remember
 * those that it has met for as long as the table exists (log/stream.c,
 * log/type.c: which ones).  When there are ES_MAX_NAMES, or the table may be
 * another one, all are forgotten: not before the next look-up begins, for
 * names that were handed out have to stay readable until then.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "log/names.h"

typedef struct EsNameHash
{
	uint64		hash;			/* hash key */
	void	   *entry;
} EsNameHash;

/*
 * Begin anew, with nothing.
 */
void
es_names_renew(EsNames *names)
{
	HASHCTL		ctl;

	/* until all of it is made, which may fail half-way */
	names->ready = false;
	if (names->context == NULL)
	{
		names->context = AllocSetContextCreate(TopMemoryContext, "event_store names",
											   ALLOCSET_DEFAULT_SIZES);
		MemoryContextSetIdentifier(names->context, names->what);
	}
	else
		MemoryContextReset(names->context);

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = names->number_size;
	ctl.entrysize = names->entry_size;
	ctl.hcxt = names->context;
	names->by_number = hash_create("event_store names by number", 256, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(EsNameHash);
	names->by_hash = hash_create("event_store names by hash", 256, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	names->ready = true;
}

/*
 * Copy a name, or the two parts of one, to where it is kept; not
 * zero-terminated.  To be done before an entry is made, since an error after
 * that would leave an unfinished one.
 */
char *
es_names_copy(EsNames *names, const char *first, int first_len,
			  const char *second, int second_len)
{
	char	   *copy = MemoryContextAlloc(names->context, Max(first_len + second_len, 1));

	if (first_len > 0)
		memcpy(copy, first, first_len);
	if (second_len > 0)
		memcpy(copy + first_len, second, second_len);
	return copy;
}

/*
 * The entry that was entered last under a hash, which need not be that of the
 * wanted name; NULL if there is none.
 */
void *
es_names_by_hash(EsNames *names, uint64 hash)
{
	EsNameHash *found = hash_search(names->by_hash, &hash, HASH_FIND, NULL);

	return found == NULL ? NULL : found->entry;
}

void
es_names_enter_hash(EsNames *names, uint64 hash, void *entry)
{
	EsNameHash *place = hash_search(names->by_hash, &hash, HASH_ENTER, NULL);

	place->entry = entry;
}

/*
 * Make the scan key of a column with names; what it compares with is palloc'd.
 */
void
es_names_key(ScanKey key, AttrNumber column, const char *name, int len)
{
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, TEXTOID,
						   C_COLLATION_OID, F_TEXTEQ,
						   PointerGetDatum(cstring_to_text_with_len(name, len)));
}
