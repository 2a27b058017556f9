/*-------------------------------------------------------------------------
 * append/progress.h
 *	  How far running imports are.
 *-------------------------------------------------------------------------
 */
#ifndef ES_APPEND_PROGRESS_H
#define ES_APPEND_PROGRESS_H

/* the place of one import in shared memory */
typedef struct EsImportSlot EsImportSlot;

extern void es_progress_init(void);
extern EsImportSlot *es_progress_begin(void);
extern void es_progress_update(EsImportSlot *slot, int64 events);
extern void es_progress_end(EsImportSlot *slot);

#endif							/* ES_APPEND_PROGRESS_H */
