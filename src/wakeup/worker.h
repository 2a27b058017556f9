/*-------------------------------------------------------------------------
 * wakeup/worker.h
 *	  The worker of a database, and the launcher that starts them.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKEUP_WORKER_H
#define ES_WAKEUP_WORKER_H

/*
 * Something to do in each round of the worker.
 *
 * follows		set it when the task wants to be called soon after each append
 *
 * Result: true = something is waiting.
 */
typedef bool (*EsWorkerTask) (bool *follows);

/* wakeup/worker.c */
extern void es_worker_add_task(EsWorkerTask task);
extern bool es_worker_database_is_wanted(Oid database);
extern bool es_worker_in_the_way(void);

/* wakeup/launcher.c */
extern void es_launcher_init(void);

#endif							/* ES_WAKEUP_WORKER_H */
