/* SPDX-License-Identifier: MIT */
#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/text/corpus.h"

enum { BLOCK = 1 << 16 };

struct corpus {
	const char *const *paths;	/* those to come */
	int fd;				/* of the first, if it is open already; or -1 */
	struct archive *archive;	/* NULL between files */
	const char *path;
	int member;			/* of a tar or zip, not a file by itself */
	int every;			/* members of any name */
	size_t members;			/* taken from this archive */
	char **names;			/* of files and members so far, which lines point to */
	size_t nnames, cap;
	size_t number;			/* lines of the current one so far */
	struct text rest;		/* of the last block: the start of a line */
	int done;			/* the current file is at its end */
};

struct corpus *
corpus_open(const char *const *paths)
{
	static const char *const input[] = { "-", NULL };
	struct corpus *c = mem_zero(1, sizeof *c);

	c->paths = *paths ? paths : input;
	c->fd = -1;
	c->done = 1;
	return c;
}

struct corpus *
corpus_open_fd(int fd, const char *const *path)
{
	struct corpus *c = corpus_open(path);

	c->fd = fd;
	return c;
}

void
corpus_close(struct corpus *c)
{
	size_t i;

	if (c->archive)
		archive_read_free(c->archive);
	for (i = 0; i < c->nnames; i++)
		free(c->names[i]);
	free(c->names);
	free(c->rest.s);
	free(c);
}

void
corpus_batch_free(struct corpus_batch *b)
{
	free(b->text.s);
	free(b->lines);
}

static void
fail(const struct corpus *c, const char *what)
{
	const char *why = archive_error_string(c->archive);

	die("cannot %s '%s': %s", what, c->path, why ? why : "unknown error");
}

static void
open_next(struct corpus *c)
{
	const char *path = *c->paths++;
	int standard = !strcmp(path, "-"), fd = c->fd >= 0 ? c->fd : standard ? STDIN_FILENO : -1, rc;

	c->fd = -1;
	c->path = standard ? "<stdin>" : path;
	c->members = 0;
	if (!(c->archive = archive_read_new()))
		die("out of memory");
	archive_read_support_filter_all(c->archive);
	archive_read_support_format_tar(c->archive);
	archive_read_support_format_zip(c->archive);
	archive_read_support_format_raw(c->archive);
	archive_read_support_format_empty(c->archive);
	rc = fd >= 0 ? archive_read_open_fd(c->archive, fd, BLOCK) :
	    archive_read_open_filename(c->archive, path, BLOCK);
	if (rc != ARCHIVE_OK)
		fail(c, "read");
}

static int
is_json(const char *name)
{
	static const char *const endings[] = { ".jsonl", ".ndjson", ".json" };
	size_t n = strlen(name), i, k;

	for (i = 0; i < sizeof endings / sizeof *endings; i++)
		if ((k = strlen(endings[i])) < n && !strcmp(name + n - k, endings[i]))
			return 1;
	return 0;
}

static int
wanted(const struct corpus *c, struct archive_entry *entry)
{
	const char *name = archive_entry_pathname(entry);

	if (archive_format(c->archive) == ARCHIVE_FORMAT_RAW)
		return 1;
	return archive_entry_filetype(entry) == AE_IFREG && name && (c->every || is_json(name));
}

static void
start(struct corpus *c, struct archive_entry *entry)
{
	int raw = archive_format(c->archive) == ARCHIVE_FORMAT_RAW;
	char *name = raw ? mem_string(c->path) : mem_format("%s:%s", c->path, archive_entry_pathname(entry));

	MEM_PUSH(c->names, c->nnames, c->cap, name);
	c->members++;
	c->number = 0;
	c->done = 0;
}

/* Go to the next file or member; 0 when there is none. */
static int
advance(struct corpus *c)
{
	struct archive_entry *entry;
	int rc, empty;

	for (;;) {
		if (!c->archive && !*c->paths)
			return 0;
		if (!c->archive)
			open_next(c);
		rc = archive_read_next_header(c->archive, &entry);
		if (rc == ARCHIVE_OK || rc == ARCHIVE_WARN) {
			if (!wanted(c, entry))
				continue;
			start(c, entry);
			return 1;
		}
		if (rc != ARCHIVE_EOF)
			fail(c, "read");
		empty = archive_format(c->archive) == ARCHIVE_FORMAT_EMPTY;
		if (!c->members && !empty)
			die("there is no .jsonl or .json in '%s'", c->path);
		archive_read_free(c->archive);
		c->archive = NULL;
	}
}

/* One more block behind the text; 0 at the end of the file. */
static int
read_block(struct corpus *c, struct text *text)
{
	const void *data;
	size_t size;
	la_int64_t offset;
	int rc = archive_read_data_block(c->archive, &data, &size, &offset);

	if (rc == ARCHIVE_EOF)
		return 0;
	if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN)
		fail(c, "read");
	text_add(text, data, size);
	return 1;
}

static void
add_line(struct corpus *c, struct corpus_batch *b, size_t at, size_t end)
{
	struct corpus_line line = { at, end - at, c->names[c->nnames - 1], ++c->number };

	/* a mark of the byte order says nothing in UTF-8 */
	if (c->number == 1 && line.n >= 3 && !memcmp(b->text.s + at, "\xef\xbb\xbf", 3)) {
		line.at += 3;
		line.n -= 3;
	}
	while (line.n && strchr(" \t\r", b->text.s[line.at + line.n - 1]) && b->text.s[line.at + line.n - 1])
		line.n--;
	if (line.n)
		MEM_PUSH(b->lines, b->n, b->cap, line);
}

/* The whole lines of text[from ..], none of which ends before `seen`; returns where the last one ends. */
static size_t
cut_lines(struct corpus *c, struct corpus_batch *b, size_t from, size_t seen)
{
	const char *stop;

	while (seen < b->text.n && (stop = memchr(b->text.s + seen, '\n', b->text.n - seen))) {
		seen = (size_t)(stop - b->text.s) + 1;
		add_line(c, b, from, seen - 1);
		from = seen;
	}
	return from;
}

size_t
corpus_read(struct corpus *c, struct corpus_batch *b, size_t bytes)
{
	size_t from = 0, seen;

	b->n = b->text.n = 0;
	text_add(&b->text, c->rest.s, c->rest.n);
	c->rest.n = 0;
	/* a line may be longer than a batch */
	while (b->text.n < bytes || !b->n) {
		if (c->done && !advance(c))
			break;
		seen = b->text.n;
		c->done = !read_block(c, &b->text);
		from = cut_lines(c, b, from, seen);
		if (c->done && from < b->text.n) {
			add_line(c, b, from, b->text.n);
			from = b->text.n;
		}
	}
	if (from < b->text.n)
		text_add(&c->rest, b->text.s + from, b->text.n - from);
	return b->n;
}

int
corpus_file(struct corpus *c, struct text *text, const char **name)
{
	c->every = 1;
	if (!advance(c))
		return 0;
	text->n = 0;
	while (read_block(c, text))
		;
	*name = c->names[c->nnames - 1];
	return 1;
}
