/*-------------------------------------------------------------------------
 * refused.c
 *	  Calls of the protocol that have no counterpart here.  Each is answered
 *	  UNIMPLEMENTED with a sentence that says what to do instead.
 *-------------------------------------------------------------------------
 */
#include "node.h"

#define STREAMS		"event_store.client.streams.Streams"
#define GROUPS		"event_store.client.persistent_subscriptions.PersistentSubscriptions"
#define PROJECTIONS "event_store.client.projections.Projections"
#define USERS		"event_store.client.users.Users"
#define OPERATIONS	"event_store.client.operations.Operations"
#define MONITORING	"event_store.client.monitoring.Monitoring"
#define REDACTION	"event_store.client.redaction.Redaction"

static const char *
advice(const Method *method)
{
	if (strcmp(method->service, STREAMS) == 0)
		return "the store keeps all events: streams are neither deleted nor tombstoned; "
			"append an event that says so, and let readers heed it";
	if (strcmp(method->service, PROJECTIONS) == 0)
		return "projections are SQL or PL/pgSQL functions here: "
			"use es_create_projection() and the views of schema event_store";
	if (strcmp(method->service, USERS) == 0)
		return "users are PostgreSQL's roles: use CREATE ROLE, ALTER ROLE and es_grant()";
	if (strcmp(method->service, OPERATIONS) == 0)
		return "operations are PostgreSQL's: use its tools (vacuum, pg_ctl, replication)";
	if (strcmp(method->service, MONITORING) == 0)
		return "figures are in the views of schema event_store and in pg_stat_activity";
	return "the gateway does not do that; its README lists what it does";
}

static void
refuse(Call *call, const uint8_t *data, size_t len)
{
	(void) data;
	(void) len;
	call_finish(call, GRPC_STATUS_UNIMPLEMENTED, advice(call_method(call)));
}

#define REFUSED(service_, name_) {.service = service_, .name = name_, .open = true, .message = refuse}

const Method refused_methods[] = {
	REFUSED(STREAMS, "Delete"),
	REFUSED(STREAMS, "Tombstone"),
	REFUSED(PROJECTIONS, "Create"),
	REFUSED(PROJECTIONS, "Update"),
	REFUSED(PROJECTIONS, "Delete"),
	REFUSED(PROJECTIONS, "State"),
	REFUSED(PROJECTIONS, "Result"),
	REFUSED(PROJECTIONS, "RestartSubsystem"),
	REFUSED(USERS, "Create"),
	REFUSED(USERS, "Update"),
	REFUSED(USERS, "Delete"),
	REFUSED(USERS, "Disable"),
	REFUSED(USERS, "Enable"),
	REFUSED(USERS, "Details"),
	REFUSED(USERS, "ChangePassword"),
	REFUSED(USERS, "ResetPassword"),
	REFUSED(OPERATIONS, "StartScavenge"),
	REFUSED(OPERATIONS, "StopScavenge"),
	REFUSED(OPERATIONS, "Shutdown"),
	REFUSED(OPERATIONS, "MergeIndexes"),
	REFUSED(OPERATIONS, "ResignNode"),
	REFUSED(OPERATIONS, "SetNodePriority"),
	REFUSED(OPERATIONS, "RestartPersistentSubscriptions"),
	REFUSED(MONITORING, "Stats"),
	REFUSED(REDACTION, "GetEventPositions"),
	REFUSED(REDACTION, "SwitchChunks"),
	{0}
};
