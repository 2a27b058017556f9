/*-------------------------------------------------------------------------
 * base/shmem.h
 *	  What the store has in shared memory.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_SHMEM_H
#define ES_BASE_SHMEM_H

extern void es_shmem_preload(Size size, void (*startup) (void));
extern void *es_shmem_get(const char *name, Size size, void (*init) (void *place));

#endif							/* ES_BASE_SHMEM_H */
