/* SPDX-License-Identifier: MIT */
/*
 * reader - JSON from memory, fast enough for vocabularies and corpora
 *
 * A pull reader over foreign bytes: each function takes the next item and
 * returns 0, or -1 with the reason. Strings must be UTF-8; NUL inside of them
 * is allowed. json_t values are for what is small or travels on.
 */
#ifndef TEXT_READER_H
#define TEXT_READER_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/text.h"

struct reader {
	const char *begin, *p, *end;
	char *why;			/* REASON_MAX bytes, the caller's */
	struct text buffer;		/* the last string with escapes, undone */
};

void reader_init(struct reader *r, const void *text, size_t n, char *why);
void reader_free(struct reader *r);

int reader_peek(struct reader *r);			/* the next byte that is not white space, 0 at the end */
int reader_take(struct reader *r, int c);		/* 1 and past it if it is the next one, else 0 */
int reader_expect(struct reader *r, int c);
int reader_end(struct reader *r);			/* nothing may follow */

/* s points into the text or the buffer and is valid until the next call. */
int reader_string(struct reader *r, const char **s, size_t *n);
int reader_integer(struct reader *r, int64_t *value);
int reader_value(struct reader *r, json_t **value);	/* anything; the caller's */
int reader_skip(struct reader *r);			/* past any value, checked only for its brackets and quotes */

/*
 * Over the elements: `for (first = 1; (rc = reader_next(r, '}', &first)) > 0; )`.
 * The opening bracket is taken before; 1: one more stands here, 0: the closing one was taken.
 */
int reader_next(struct reader *r, int close, int *first);
int reader_key(struct reader *r, const char **s, size_t *n);	/* a string and its colon */

/* A whole text that is one value; NULL and the reason. */
json_t *reader_parse(const void *text, size_t n, char *why);

#endif
