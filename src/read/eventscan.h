/*-------------------------------------------------------------------------
 * read/eventscan.h
 *	  The read functions in FROM, row by row.
 *-------------------------------------------------------------------------
 */
#ifndef ES_READ_EVENTSCAN_H
#define ES_READ_EVENTSCAN_H

extern void es_eventscan_init(void);

#endif							/* ES_READ_EVENTSCAN_H */
