/*-------------------------------------------------------------------------
 * status.c
 *	  See status.h.
 *-------------------------------------------------------------------------
 */
#include "status.h"

#include <stdio.h>

#include "log.h"

grpc_status_code
status_of(const DbError *error)
{
	static const struct
	{
		const char *code;		/* a class, or all five characters */
		grpc_status_code status;
	}			map[] = {
		{"VE001", GRPC_STATUS_FAILED_PRECONDITION},
		{"VE002", GRPC_STATUS_ALREADY_EXISTS},
		{"VE004", GRPC_STATUS_OUT_OF_RANGE},
		{"22", GRPC_STATUS_INVALID_ARGUMENT},
		{"25006", GRPC_STATUS_UNAVAILABLE},	/* a standby */
		{"28", GRPC_STATUS_UNAUTHENTICATED},
		{"40", GRPC_STATUS_ABORTED},
		{"42501", GRPC_STATUS_PERMISSION_DENIED},
		{"42704", GRPC_STATUS_NOT_FOUND},
		{"42710", GRPC_STATUS_ALREADY_EXISTS},
		{"42883", GRPC_STATUS_UNIMPLEMENTED},	/* an older extension */
		{"53", GRPC_STATUS_RESOURCE_EXHAUSTED},
		{"54", GRPC_STATUS_INVALID_ARGUMENT},
		{"55000", GRPC_STATUS_FAILED_PRECONDITION},
		{"55P03", GRPC_STATUS_ABORTED},
		{"57014", GRPC_STATUS_ABORTED},
	};

	if (error->lost)
		return GRPC_STATUS_UNAVAILABLE;
	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (strncmp(error->code, map[i].code, strlen(map[i].code)) == 0)
			return map[i].status;
	return GRPC_STATUS_UNKNOWN;
}

bool
call_failed(Call *call, const DbError *error)
{
	grpc_status_code status;
	char	   *message;

	if (error == NULL)
		return false;
	status = status_of(error);
	if (status == GRPC_STATUS_PERMISSION_DENIED || status == GRPC_STATUS_UNAUTHENTICATED)
		call_trailer_text(call, "exception", "access-denied");
	log_event(status == GRPC_STATUS_UNKNOWN ? LOG_WARN : LOG_DEBUG, "call failed",
			  "method=%q user=%q sqlstate=%q error=%q", call_method(call)->name, call_user(call),
			  error->code, error->message);
	message = error->detail ? xprintf("%s (%s; SQLSTATE %s)", error->message, error->detail, error->code) :
		xprintf("%s (SQLSTATE %s)", error->message, error->code);
	call_finish(call, status, message);
	free(message);
	return true;
}

void
call_malformed(Call *call)
{
	call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "the message does not follow the protocol");
}

void
call_finish_typed(Call *call, grpc_status_code code, const char *message,
				  const char *type, const ProtobufCMessage *detail)
{
	Gw__Status	status = GW__STATUS__INIT;
	Gw__Typed	typed = GW__TYPED__INIT;
	uint8_t    *packed = xmalloc(protobuf_c_message_get_packed_size(detail));
	uint8_t    *trailer;
	size_t		len;

	typed.type_url = xprintf("type.googleapis.com/%s", type);
	typed.value.data = packed;
	typed.value.len = protobuf_c_message_pack(detail, packed);
	status.code = code;
	status.message = (char *) message;
	status.detail = &typed;
	trailer = xmalloc(gw__status__get_packed_size(&status));
	len = gw__status__pack(&status, trailer);
	call_trailer(call, "grpc-status-details-bin", trailer, len);
	call_finish(call, code, message);
	free(trailer);
	free(packed);
	free(typed.type_url);
}

int64_t
detail_number(const char *detail, const char *key)
{
	size_t		len = strlen(key);
	int64_t		found = -1;

	/* the stream's name comes first and may contain anything: the last one counts */
	for (const char *p = detail; p && (p = strstr(p, key)) != NULL; p++)
		if (p[len] == '=')
			found = strtoll(p + len + 1, NULL, 10);
	return found;
}

bool
detail_is_stream(const char *detail, const char *stream)
{
	const char *p = detail ? strstr(detail, "stream=") : NULL;
	size_t		len = strlen(stream);
	char	   *end;

	if (p == NULL)
		return false;
	p += strlen("stream=");
	if (strncmp(p, stream, len) != 0)
		return false;

	/* what follows must be the version: another name may go on after a space */
	p += len;
	if (strncmp(p, " version=", strlen(" version=")) != 0)
		return false;
	strtoll(p + strlen(" version="), &end, 10);
	return *end == '\0' || *end == '\n';
}
