/*-------------------------------------------------------------------------
 * methods.c
 *	  The table of calls.  ServerFeatures tells clients what is in it; the
 *	  calls that are refused (refused.c) are not.
 *-------------------------------------------------------------------------
 */
#include "append.h"
#include "groups.h"
#include "node.h"
#include "read.h"

const Method *const methods[] = {
	&server_features_method,
	&gossip_method,
	&append_method,
	&batch_append_method,
	&append_session_method,
	&append_records_method,
	&read_method,
	&group_read_method,
	&group_create_method,
	&group_update_method,
	&group_delete_method,
	&group_info_method,
	&group_list_method,
	&group_replay_method,
	&group_restart_method,
	&projection_statistics_method,
	&projection_enable_method,
	&projection_disable_method,
	&projection_reset_method,
	NULL
};
