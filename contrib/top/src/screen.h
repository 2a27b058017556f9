/*-------------------------------------------------------------------------
 * screen.h
 *	  The terminal: pages on it, and the keys.
 *-------------------------------------------------------------------------
 */
#ifndef SCREEN_H
#define SCREEN_H

#include "page.h"

extern void screen_run(Store *store, PageKind page, double interval);

#endif
