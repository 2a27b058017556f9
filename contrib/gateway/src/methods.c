/*-------------------------------------------------------------------------
 * methods.c
 *	  The table of calls.  ServerFeatures tells clients what is in it; the
 *	  calls that are refused (refused.c) are not.
 *-------------------------------------------------------------------------
 */
#include "append.h"
#include "node.h"
#include "read.h"

const Method *const methods[] = {
	&server_features_method,
	&gossip_method,
	&append_method,
	&batch_append_method,
	&read_method,
	NULL
};
