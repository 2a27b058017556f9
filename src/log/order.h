/*-------------------------------------------------------------------------
 * log/order.h
 *	  Insertion locks and the barrier before commit.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_ORDER_H
#define ES_LOG_ORDER_H

extern void es_order_init(void);
extern void es_order_attach(void);
extern void es_order_lock(void);
extern void es_order_publish(int64 lowest);
extern void es_order_unlock(int64 highest);
extern void es_order_barrier_own(void);
extern bool es_order_has_appended(void);

#endif							/* ES_LOG_ORDER_H */
