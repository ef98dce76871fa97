/* SPDX-License-Identifier: MIT */
/*
 * corpus - the lines of JSONL files, as they are or packed
 *
 * Plain, .gz, .xz, .zst and whatever else libarchive unpacks; of a .tar or
 * .zip the members that end in .jsonl, .ndjson or .json, in their order. All
 * functions die on I/O errors and name the file.
 */
#ifndef TEXT_CORPUS_H
#define TEXT_CORPUS_H

#include <stddef.h>

#include "lib/base/text.h"

struct corpus;

/* The files one after the other; stdin where there is none, or for "-". `paths` is NULL-terminated. */
struct corpus *corpus_open(const char *const *paths);
/* The same of one path that is open as fd, which stays the caller's. */
struct corpus *corpus_open_fd(int fd, const char *const *path);
void corpus_close(struct corpus *c);

struct corpus_line {
	size_t at, n;		/* in the batch's text, without its line end */
	const char *file;	/* FILE, FILE:MEMBER or <stdin>; owned by the corpus */
	size_t number;		/* in that file, from 1 */
};

/* Zero it before the first use; memory is used again. */
struct corpus_batch {
	struct text text;
	struct corpus_line *lines;
	size_t n, cap;
};

/* The next whole lines that are not blank, about `bytes` of them. Returns their number, 0 at the end. */
size_t corpus_read(struct corpus *c, struct corpus_batch *batch, size_t bytes);
void corpus_batch_free(struct corpus_batch *batch);

/* The next file or member as a whole, whatever members are called; 0 at the end. */
int corpus_file(struct corpus *c, struct text *text, const char **name);

#endif
