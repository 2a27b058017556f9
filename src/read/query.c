/*-------------------------------------------------------------------------
 * read/query.c
 *	  Queries: which events a decision depends on.
 *
 * A query is a list of items.  An item matches an event that is of one of its
 * types, if it names any, carries all of its tags, belongs to one of its
 * streams, if it names any, and to one whose name begins with one of its
 * prefixes, if it names any; a query matches what one of its items matches, and
 * everything if it has none.
 *
 * The same queries tell what to read (es_read_query), what a subscription or
 * projection is to get, and what must not have happened (append/condition.c).
 * They mean the types that readers see, after upcasting; only a read that shows
 * events as they are stored has it otherwise.
 *
 * A walk over a query is a walk along the global order like any other
 * (log/scan.c): it obeys the prefix rule and visits no more entries than the
 * rarest tag of each item, or its types, have.  An item with streams or prefixes
 * is one with the types of their categories; what is settled of a named stream
 * is found by the index of the stream (log/entries.c).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/json.h"
#include "log/head.h"
#include "log/stream.h"
#include "log/tags.h"
#include "read/query.h"

/*
 * The strings of a key of an item.
 *
 * strings		result; NULL when there are none
 */
static int
es_query_strings(const char *argument, int element, const char *key,
				 const JsonbValue *value, Datum **strings)
{
	EsJsonWalk	walk;
	int			n = 0;

	*strings = NULL;
	if (value->type == jbvNull)
		return 0;
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
					 "\"%s\" must be an array of strings.", key);
	if (JsonContainerSize(value->val.binary.data) == 0)
		return 0;
	*strings = palloc(sizeof(Datum) * JsonContainerSize(value->val.binary.data));
	es_json_walk(&walk, value->val.binary.data);
	while (es_json_next_element(&walk))
	{
		const JsonbValue *string = &walk.value;

		if (string->type != jbvString)
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
						 "\"%s\" must be an array of strings.", key);
		es_check_name(argument, element, string->val.string.val, string->val.string.len);
		(*strings)[n++] = PointerGetDatum(cstring_to_text_with_len(string->val.string.val,
																   string->val.string.len));
	}
	/* a set, both of them */
	return es_tags_sort(*strings, n);
}

static void
es_query_parse_item(const char *argument, int element, JsonbContainer *object,
					EsQueryItem *item)
{
	EsJsonWalk	walk;

	es_json_walk(&walk, object);
	while (es_json_next_key(&walk))
	{
		if (es_json_key_is(&walk, "event_types"))
			item->ntypes = es_query_strings(argument, element, "event_types", &walk.value,
											&item->types);
		else if (es_json_key_is(&walk, "tags"))
			item->ntags = es_query_strings(argument, element, "tags", &walk.value,
										   &item->tags);
		else if (es_json_key_is(&walk, "streams"))
			item->nstreams = es_query_strings(argument, element, "streams", &walk.value,
											  &item->streams);
		else if (es_json_key_is(&walk, "stream_prefixes"))
			item->nprefixes = es_query_strings(argument, element, "stream_prefixes",
											   &walk.value, &item->prefixes);
		else
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
						 "Key \"%.*s\" is not known; an item has \"event_types\", \"tags\", \"streams\" and \"stream_prefixes\".",
						 walk.key.val.string.len, walk.key.val.string.val);
	}
}

/*
 * Read a query.
 *
 * argument		name for errors
 *
 * Errors: 22023.
 */
EsQuery *
es_query_parse(const char *argument, Jsonb *json)
{
	EsQuery    *query = palloc0(sizeof(EsQuery));
	EsJsonWalk	walk;

	if (!JB_ROOT_IS_OBJECT(json))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
					 "A query must be a JSON object.");
	es_json_walk(&walk, &json->root);
	while (es_json_next_key(&walk))
	{
		const JsonbValue *value = &walk.value;
		EsJsonWalk	items;

		if (!es_json_key_is(&walk, "items"))
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
						 "Key \"%.*s\" is not known; a query has \"items\".",
						 walk.key.val.string.len, walk.key.val.string.val);
		if (value->type == jbvNull)
			continue;
		if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
						 "\"items\" must be an array of objects.");
		query->items = palloc0(sizeof(EsQueryItem) *
							   (JsonContainerSize(value->val.binary.data) + 1));
		es_json_walk(&items, value->val.binary.data);
		while (es_json_next_element(&items))
		{
			const JsonbValue *item = &items.value;
			int			n = query->nitems++;

			if (item->type != jbvBinary || !JsonContainerIsObject(item->val.binary.data))
				es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, n + 1,
							 "It must be a JSON object.");
			es_query_parse_item(argument, n + 1, item->val.binary.data, &query->items[n]);
		}
	}

	/* no items: one that asks for nothing */
	if (query->nitems == 0)
	{
		query->items = palloc0(sizeof(EsQueryItem));
		query->nitems = 1;
	}
	query->scan_items = palloc0(sizeof(EsScanItem) * query->nitems);
	return query;
}

/*
 * The categories of the streams that an item may want: those of the named
 * streams, or else of the prefixes.
 *
 * categories	result; NULL = any
 */
static int
es_item_categories(const EsQueryItem *item, const EsStore *store, Datum **categories)
{
	bool		named = item->nstreams > 0;
	Datum	   *names = named ? item->streams : item->prefixes;
	int			nnames = named ? item->nstreams : item->nprefixes;
	int			n = 0;

	*categories = NULL;
	if (nnames == 0)
		return 0;
	*categories = palloc(sizeof(Datum) * nnames);
	for (int i = 0; i < nnames; i++)
	{
		text	   *name = DatumGetTextPP(names[i]);
		int			len = VARSIZE_ANY_EXHDR(name);
		int			category_len = es_category_length(VARDATA_ANY(name), len);

		if (named || category_len < len)
			(*categories)[n++] = PointerGetDatum(cstring_to_text_with_len(VARDATA_ANY(name),
																		  category_len));
		else
		{
			/* it may end within the category */
			Datum	   *begin_so;
			int			nbegin_so = es_type_categories(store, VARDATA_ANY(name), len, &begin_so);

			*categories = repalloc(*categories, sizeof(Datum) * (n + nbegin_so + nnames - i));
			memcpy(*categories + n, begin_so, sizeof(Datum) * nbegin_so);
			n += nbegin_so;
		}
	}
	return n;
}

/*
 * Look up the streams that an item names.
 *
 * A stream that is not there yet has nothing settled; what is not settled is
 * found by its type, and then it has to be seen by name.
 */
static void
es_item_streams(const EsQueryItem *item, const EsStore *store, Snapshot snapshot,
				EsScanItem *scan_item)
{
	int64	   *stream_nos = palloc(sizeof(int64) * Max(item->nstreams, 1));
	int			n = 0;

	for (int i = 0; i < item->nstreams; i++)
	{
		text	   *name = DatumGetTextPP(item->streams[i]);
		int64		stream_no = es_stream_find(store, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

		if (stream_no == 0)
			return;
		stream_nos[n++] = stream_no;
	}
	if (n == 0)
		return;
	scan_item->stream_nos = stream_nos;
	scan_item->nstreams = n;
	if (snapshot != NULL)
		scan_item->settled = es_head_marked(store, snapshot);
}

/*
 * List the type numbers that the items want, and their streams.
 *
 * snapshot		NULL = not for a walk along it
 */
static void
es_query_list(EsQuery *query, const EsStore *store, Snapshot snapshot)
{
	for (int i = 0; i < query->nitems; i++)
	{
		EsQueryItem *item = &query->items[i];
		EsScanItem *scan_item = &query->scan_items[i];
		int32	   *type_nos = NULL;
		Datum	   *categories;
		int			ncategories;

		/* the script that has queries has tags */
		Assert(item->ntags == 0 || store->tags != 0);
		item->filter = NULL;
		memset(scan_item, 0, sizeof(*scan_item));
		ncategories = es_item_categories(item, store, &categories);
		if (item->ntypes > 0 || categories != NULL)
			scan_item->ntypes =
				es_upcast_type_list(store, categories, ncategories,
									item->ntypes > 0 ? item->types : NULL, item->ntypes,
									query->as_stored, &type_nos, &item->filter);
		es_item_streams(item, store, snapshot, scan_item);
		scan_item->type_nos = type_nos;
		scan_item->tags = item->tags;
		scan_item->ntags = item->ntags;
	}
}

/*
 * Begin a walk over what a query matches.  What es_query_wants does not want
 * is to be left out.
 *
 * The arguments are those of es_scan_begin_items.
 */
EsScan *
es_query_scan(EsQuery *query, Relation event, const EsStore *store, Snapshot snapshot,
			  EsScanMode mode, ScanDirection direction, int64 after, int64 upto,
			  int64 expected_rows)
{
	es_query_list(query, store, mode == ES_SCAN_VISIBLE ? snapshot : NULL);
	return es_scan_begin_items(event, store, snapshot, mode, direction, after, upto,
							   query->scan_items, query->nitems, expected_rows);
}

/*
 * Does an event belong to a stream that the item wants?
 */
static bool
es_item_wants_stream(const EsQueryItem *item, const EsStore *store, TupleTableSlot *slot)
{
	bool		isnull;
	int64		stream_no = DatumGetInt64(slot_getattr(slot, Anum_es_event_stream_no, &isnull));
	const char *name;
	int			len;
	bool		wanted = item->nstreams == 0;

	if (item->nstreams == 0 && item->nprefixes == 0)
		return true;
	if (isnull)
		return false;
	name = es_stream_name(store, stream_no, &len);
	for (int i = 0; i < item->nstreams && !wanted; i++)
	{
		text	   *stream = DatumGetTextPP(item->streams[i]);

		wanted = VARSIZE_ANY_EXHDR(stream) == len &&
			memcmp(VARDATA_ANY(stream), name, len) == 0;
	}
	if (!wanted || item->nprefixes == 0)
		return wanted;
	for (int i = 0; i < item->nprefixes; i++)
	{
		text	   *prefix = DatumGetTextPP(item->prefixes[i]);

		if (VARSIZE_ANY_EXHDR(prefix) <= len &&
			memcmp(VARDATA_ANY(prefix), name, VARSIZE_ANY_EXHDR(prefix)) == 0)
			return true;
	}
	return false;
}

/*
 * Does the query match this event, in the shape in which it will be read?
 *
 * Its types have been listed.
 */
static bool
es_query_matches(const EsQuery *query, const EsStore *store, TupleTableSlot *slot)
{
	bool		isnull;
	int32		type_no = DatumGetInt32(slot_getattr(slot, Anum_es_event_type_no, &isnull));

	for (int i = 0; i < query->nitems; i++)
	{
		const EsQueryItem *item = &query->items[i];
		const EsScanItem *scan_item = &query->scan_items[i];
		bool		wanted = scan_item->type_nos == NULL;

		for (int k = 0; k < scan_item->ntypes && !wanted; k++)
			wanted = scan_item->type_nos[k] == type_no;
		wanted = wanted && es_item_wants_stream(item, store, slot);
		if (wanted && item->ntags > 0)
		{
			ArrayType  *tags = es_event_tags(store, slot);

			wanted = tags != NULL && es_tags_contain(tags, item->tags, item->ntags);
			if (tags != NULL && (Pointer) tags != DatumGetPointer(slot->tts_values[store->tags - 1]))
				pfree(tags);	/* of many events, maybe */
		}
		if (wanted && es_upcast_wanted(store, item->filter, slot))
			return true;
	}
	return false;
}

/*
 * Does the query want this event of its walk?
 */
bool
es_query_wants(const EsQuery *query, const EsStore *store, TupleTableSlot *slot)
{
	for (int i = 0; i < query->nitems; i++)
	{
		const EsQueryItem *item = &query->items[i];

		if (unlikely(item->filter != NULL || item->nstreams > 0 || item->nprefixes > 0))
			return es_query_matches(query, store, slot);
	}
	return true;
}

/*
 * List what a selection wants.
 *
 * snapshot		as for es_query_list
 */
static void
es_selection_list_for(EsSelection *selection, const EsStore *store, Snapshot snapshot)
{
	selection->type_nos = NULL;
	selection->types = NULL;
	selection->ntypes = 0;
	if (selection->categories != NULL || selection->event_types != NULL)
		selection->ntypes = es_upcast_type_list(store, selection->categories,
												selection->ncategories,
												selection->event_types,
												selection->nevent_types, false,
												&selection->type_nos, &selection->types);
	if (selection->query != NULL)
		es_query_list(selection->query, store, snapshot);
}

/*
 * The same for events met on other walks: see es_selection_matches.
 */
void
es_selection_list(EsSelection *selection, const EsStore *store)
{
	es_selection_list_for(selection, store, NULL);
}

/*
 * Begin a walk forward over what a selection wants; what es_selection_wants
 * does not want is to be left out.
 *
 * upto			the bound of the snapshot has been taken for it
 */
EsScan *
es_selection_scan(EsSelection *selection, Relation event, const EsStore *store,
				  Snapshot snapshot, int64 after, int64 upto, int64 expected_rows)
{
	/* the lists must be younger than the bound: see log/type.c */
	es_selection_list_for(selection, store, snapshot);
	if (selection->query != NULL)
		return es_scan_begin_items(event, store, snapshot, ES_SCAN_VISIBLE,
								   ForwardScanDirection, after, upto,
								   selection->query->scan_items, selection->query->nitems,
								   expected_rows);
	return es_scan_begin(event, store, snapshot, ES_SCAN_VISIBLE, ForwardScanDirection,
						 after, upto, selection->type_nos, selection->ntypes, expected_rows);
}

/*
 * Categories and types of a selection, if there is a query beside them.
 */
static bool
es_selection_wants_type(const EsSelection *selection, TupleTableSlot *slot)
{
	bool		isnull;
	int32		type_no;

	if (selection->type_nos == NULL)
		return true;
	type_no = DatumGetInt32(slot_getattr(slot, Anum_es_event_type_no, &isnull));
	for (int i = 0; i < selection->ntypes; i++)
	{
		if (selection->type_nos[i] == type_no)
			return true;
	}
	return false;
}

/*
 * Does a selection want this event of its walk?
 */
bool
es_selection_wants(const EsSelection *selection, const EsStore *store, TupleTableSlot *slot)
{
	if (selection->query != NULL &&
		(!es_selection_wants_type(selection, slot) ||
		 !es_query_wants(selection->query, store, slot)))
		return false;
	return es_upcast_wanted(store, selection->types, slot);
}

/*
 * Does it want this event, met on another walk?  Types have been listed.
 */
bool
es_selection_matches(const EsSelection *selection, const EsStore *store,
					 TupleTableSlot *slot)
{
	return es_selection_wants_type(selection, slot) &&
		(selection->query == NULL || es_query_matches(selection->query, store, slot)) &&
		es_upcast_wanted(store, selection->types, slot);
}
