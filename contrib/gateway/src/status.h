/*-------------------------------------------------------------------------
 * status.h
 *	  How the errors of PostgreSQL are told to clients.
 *-------------------------------------------------------------------------
 */
#ifndef GW_STATUS_H
#define GW_STATUS_H

#include "call.h"
#include "common.pb-c.h"

extern grpc_status_code status_of(const DbError *error);
/* ends the call with it; returns false where there is no error */
extern bool call_failed(Call *call, const DbError *error);
extern void call_malformed(Call *call);

/*
 * Ends the call with details of a type, as google.rpc.Status in the trailer
 * grpc-status-details-bin.
 */
extern void call_finish_typed(Call *call, grpc_status_code code, const char *message,
							  const char *type, const ProtobufCMessage *detail);

/* the value behind "key=" in the DETAIL of an error, up to the next space; -1: not there */
extern int64_t detail_number(const char *detail, const char *key);
/* DETAIL names this stream */
extern bool detail_is_stream(const char *detail, const char *stream);

#endif							/* GW_STATUS_H */
