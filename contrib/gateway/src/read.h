/*-------------------------------------------------------------------------
 * read.h
 *	  Streams.Read: see read.c.
 *-------------------------------------------------------------------------
 */
#ifndef GW_READ_H
#define GW_READ_H

#include "call.h"

#define STREAMS_SERVICE "event_store.client.streams.Streams"

extern const Method read_method;

#endif							/* GW_READ_H */
