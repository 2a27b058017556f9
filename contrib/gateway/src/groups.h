/*-------------------------------------------------------------------------
 * groups.h
 *	  Persistent subscriptions at work: see groups.c; the calls that make,
 *	  change and show them are in group_calls.c.
 *-------------------------------------------------------------------------
 */
#ifndef GW_GROUPS_H
#define GW_GROUPS_H

#include "call.h"
#include "persistent.pb-c.h"

#define GROUPS_SERVICE "event_store.client.persistent_subscriptions.PersistentSubscriptions"

/* its settings have changed, or it is gone: its consumers must connect again */
extern void groups_changed(const char *subscription);
/* events are to be delivered again */
extern void groups_replay(const char *subscription);
/* fills in what is known of it here: consumers, buffers */
extern void groups_describe(const char *subscription, Gw__GroupInfo *info);
extern void groups_describe_free(Gw__GroupInfo *info);

extern const Method group_read_method;
extern const Method group_create_method;
extern const Method group_update_method;
extern const Method group_delete_method;
extern const Method group_info_method;
extern const Method group_list_method;
extern const Method group_replay_method;
extern const Method group_restart_method;

#endif							/* GW_GROUPS_H */
