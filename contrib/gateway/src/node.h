/*-------------------------------------------------------------------------
 * node.h
 *	  Calls about the server itself: see node.c; and calls that are refused,
 *	  with what to do instead: see refused.c.
 *-------------------------------------------------------------------------
 */
#ifndef GW_NODE_H
#define GW_NODE_H

#include "call.h"

extern const Method server_features_method;
extern const Method gossip_method;

/* projections.c */
extern const Method projection_statistics_method;
extern const Method projection_enable_method;
extern const Method projection_disable_method;
extern const Method projection_reset_method;

extern const Method refused_methods[];	/* ends with service NULL */

#endif							/* GW_NODE_H */
