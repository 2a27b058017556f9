/*-------------------------------------------------------------------------
 * wakeup/slots.h
 *	  Slots for background workers, when there are too few.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKEUP_SLOTS_H
#define ES_WAKEUP_SLOTS_H

/* how long a worker serves while others wait for its slot */
#define ES_TURN_MS				1000

/* how long it is idle then before it ends, and time between looks */
#define ES_CROWDED_MS			100

extern void es_slot_wait(void);
extern void es_slot_wait_again(void);
extern void es_slot_served(void);
extern void es_slot_forget(Oid database);
extern bool es_slot_is_free_for(Oid database);
extern bool es_slot_others_wait(void);
extern bool es_slot_give_way(void);
extern bool es_slot_gave_way_since(Oid database, TimestampTz since);
extern void es_slot_help(void);
extern void es_slot_wait_for(Oid database);
extern void es_slot_launcher_served(bool waits);

#endif							/* ES_WAKEUP_SLOTS_H */
