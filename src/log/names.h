/*-------------------------------------------------------------------------
 * log/names.h
 *	  What a backend remembers of names and their numbers.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_NAMES_H
#define ES_LOG_NAMES_H

#include "access/attnum.h"
#include "access/skey.h"
#include "utils/hsearch.h"

/* entries that one backend remembers (about 150 bytes each); a power of two */
#define ES_MAX_NAMES	16384

/* the names of one table; the first three are given, the rest begins as zeros */
typedef struct EsNames
{
	const char *what;
	Size		number_size;	/* of an entry's first field, its number */
	Size		entry_size;
	bool		ready;			/* false: nothing may be looked up until es_names_begin */
	MemoryContext context;
	HTAB	   *by_number;
	HTAB	   *by_hash;		/* some entries, by a hash of their name */
} EsNames;

extern void es_names_renew(EsNames *names);
extern char *es_names_copy(EsNames *names, const char *first, int first_len,
						   const char *second, int second_len);
extern void *es_names_by_hash(EsNames *names, uint64 hash);
extern void es_names_enter_hash(EsNames *names, uint64 hash, void *entry);
extern void es_names_key(ScanKey key, AttrNumber column, const char *name, int len);

/*
 * Forget everything.  It stays readable until the next look-up begins.
 */
static inline void
es_names_forget(EsNames *names)
{
	names->ready = false;
}

/*
 * Make ready for a look-up.
 *
 * Result: true when nothing is remembered any longer.
 */
static inline bool
es_names_begin(EsNames *names)
{
	if (likely(names->ready && hash_get_num_entries(names->by_number) < ES_MAX_NAMES))
		return false;
	es_names_renew(names);
	return true;
}

/*
 * The entry of a number, NULL if there is none; and a new one, of which only
 * the number is set.
 */
static inline void *
es_names_by_number(EsNames *names, const void *number)
{
	return hash_search(names->by_number, number, HASH_FIND, NULL);
}

static inline void *
es_names_enter(EsNames *names, const void *number)
{
	return hash_search(names->by_number, number, HASH_ENTER, NULL);
}

#endif							/* ES_LOG_NAMES_H */
