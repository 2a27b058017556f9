/*-------------------------------------------------------------------------
 * read/query.c
 *	  Queries: which events a decision depends on.
 *
 * A query is a list of items.  An item matches an event that is of one of its
 * types, if it names any, and carries all of its tags; a query matches what
 * one of its items matches, and everything if it has none.
 *
 * The same queries tell what to read (es_read_query), what a subscription or
 * projection is to get, and what must not have happened (append/condition.c).
 * They mean the types that readers see, after upcasting.
 *
 * A walk over a query is a walk along the global order like any other
 * (log/scan.c): it obeys the prefix rule and visits no more entries than the
 * rarest tag of each item, or its types, have.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/json.h"
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
		else
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
						 "Key \"%.*s\" is not known; an item has \"event_types\" and \"tags\".",
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
 * List the type numbers that the items want.
 *
 * Errors: 55000 in a database whose tables have no tags yet.
 */
static void
es_query_list(EsQuery *query, const EsStore *store)
{
	for (int i = 0; i < query->nitems; i++)
	{
		EsQueryItem *item = &query->items[i];
		EsScanItem *scan_item = &query->scan_items[i];
		int32	   *type_nos = NULL;

		if (item->ntags > 0 && store->tags == 0)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("the tables of this database have no tags yet"),
					errhint("Run ALTER EXTENSION event_store UPDATE."));
		item->filter = NULL;
		scan_item->ntypes = item->ntypes == 0 ? 0 :
			es_upcast_type_list(store, NULL, 0, item->types, item->ntypes, &type_nos,
								&item->filter);
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
 * Errors: 55000 in a database whose tables have no tags yet.
 */
EsScan *
es_query_scan(EsQuery *query, Relation event, const EsStore *store, Snapshot snapshot,
			  EsScanMode mode, ScanDirection direction, int64 after, int64 upto,
			  int64 expected_rows)
{
	es_query_list(query, store);
	return es_scan_begin_items(event, store, snapshot, mode, direction, after, upto,
							   query->scan_items, query->nitems, expected_rows);
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
		if (unlikely(query->items[i].filter != NULL))
			return es_query_matches(query, store, slot);
	}
	return true;
}

/*
 * List the type numbers that a selection wants.
 */
void
es_selection_list(EsSelection *selection, const EsStore *store)
{
	selection->type_nos = NULL;
	selection->types = NULL;
	selection->ntypes = 0;
	if (selection->categories != NULL || selection->event_types != NULL)
		selection->ntypes = es_upcast_type_list(store, selection->categories,
												selection->ncategories,
												selection->event_types,
												selection->nevent_types,
												&selection->type_nos, &selection->types);
	if (selection->query != NULL)
		es_query_list(selection->query, store);
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
	es_selection_list(selection, store);
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
