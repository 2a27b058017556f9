/*-------------------------------------------------------------------------
 * wakeup/listen.h
 *	  Which sessions listen on our channel.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKEUP_LISTEN_H
#define ES_WAKEUP_LISTEN_H

extern void es_listen_init(void);

#endif							/* ES_WAKEUP_LISTEN_H */
