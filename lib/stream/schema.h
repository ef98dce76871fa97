/* SPDX-License-Identifier: MIT */
/* schema - the texts of schemas/TYPE.json, compiled in; the table ends with a NULL name */
#ifndef STREAM_SCHEMA_H
#define STREAM_SCHEMA_H

#include <stddef.h>

struct schema {
	const char *type;
	const char *text;
};

extern const struct schema schemas[];

#endif
