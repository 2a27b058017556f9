/*-------------------------------------------------------------------------
 * base/fault.h
 *	  Named points at which a test build can pause, fail or crash.
 *
 * In an ordinary build every point compiles to nothing.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_FAULT_H
#define ES_BASE_FAULT_H

#ifdef ES_FAULTS

extern bool es_fault_no_barrier;	/* commit without waiting for insertions */
extern bool es_fault_no_stop;	/* readers step over unsettled positions */
extern bool es_fault_no_flush;	/* readers do not wait for the disk */
extern bool es_fault_no_confirm;	/* conditions are not looked at again */
extern bool es_fault_no_undo;	/* last versions outlive an abort */
extern bool es_fault_no_standby;	/* synchronous standbys are not heeded */
extern bool es_fault_no_id_look;	/* an id's entry is all that is looked at */
extern int	es_fault_queue_ms;	/* how long one queues up outside the lock manager */

extern void es_fault_init(void);
extern void es_fault_point(const char *name);

#define ES_FAULT_POINT(name)	es_fault_point(name)

#else

#define es_fault_no_barrier		false
#define es_fault_no_stop		false
#define es_fault_no_flush		false
#define es_fault_no_confirm		false
#define es_fault_no_undo		false
#define es_fault_no_standby		false
#define es_fault_no_id_look		false
#define es_fault_queue_ms		20
#define es_fault_init()			((void) 0)
#define ES_FAULT_POINT(name)	((void) 0)

#endif							/* ES_FAULTS */

#endif							/* ES_BASE_FAULT_H */
