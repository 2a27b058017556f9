/*-------------------------------------------------------------------------
 * base/uuid.h
 *	  Time-ordered event ids (UUID version 7).
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_UUID_H
#define ES_BASE_UUID_H

#include "utils/uuid.h"

extern void es_uuid_generate(pg_uuid_t *uuid);

#endif							/* ES_BASE_UUID_H */
