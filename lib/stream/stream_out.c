/* SPDX-License-Identifier: MIT */
/*
 * The writing side of stream.h. The caller fills one buffer with records while
 * a thread compresses and writes the other; errors wait for the caller.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/stream/record.h"

enum {
	FRAME_TARGET = 1 << 18,	/* above it, reading at random costs more and order gains little */
	LEVEL = 1,
	PIPE_SIZE = 1 << 20
};

struct stream_out {
	struct file *file;		/* NULL: stdout */
	char *name;			/* as messages have it */
	int fd;
	json_t *header;
	struct layout layout;
	uint64_t records;
	struct buffer filling;
	uint32_t filled;		/* records in it */

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int busy, finished;		/* the thread has work; there will be no more */
	struct buffer working;		/* the thread's while it is busy, and all below */
	uint32_t worked;
	ZSTD_CCtx *z;
	struct buffer packed, entries;
	uint64_t written;
	const char *failure;		/* of zstd */
	int error;			/* of write */
};

static void
write_all(struct stream_out *out, const unsigned char *p, size_t size)
{
	ssize_t n;

	for (; size; p += n, size -= (size_t)n)
		if ((n = write(out->fd, p, size)) < 0) {
			if (errno != EINTR) {
				out->error = errno;
				return;
			}
			n = 0;
		}
}

static void
write_frame(struct stream_out *out)
{
	struct buffer *packed = &out->packed;
	unsigned char *entry;

	packed->size = 0;
	out->failure = frame_pack(out->z, out->working.data, out->working.size, out->worked, packed);
	if (out->failure)
		return;
	write_all(out, packed->data, packed->size);
	entry = buffer_reserve(&out->entries, INDEX_ENTRY);
	put32(entry, (uint32_t)(packed->size - LABEL));
	put32(entry + 4, out->worked);
	out->entries.size += INDEX_ENTRY;
	out->written += packed->size;
}

static void *
work(void *arg)
{
	struct stream_out *out = arg;

	pthread_mutex_lock(&out->lock);
	for (;;) {
		while (!out->busy && !out->finished)
			pthread_cond_wait(&out->changed, &out->lock);
		if (!out->busy)
			break;
		pthread_mutex_unlock(&out->lock);
		if (!out->error && !out->failure)
			write_frame(out);
		pthread_mutex_lock(&out->lock);
		out->busy = 0;
		pthread_cond_signal(&out->changed);
	}
	pthread_mutex_unlock(&out->lock);
	return NULL;
}

static void
check(const struct stream_out *out)
{
	errno = out->error;
	if (out->error)
		die("cannot write %s:", out->name);
	if (out->failure)
		die("cannot compress for %s: %s", out->name, out->failure);
}

/* Give the filled buffer to the thread and take its empty one. */
static void
hand_over(struct stream_out *out)
{
	struct buffer empty;

	pthread_mutex_lock(&out->lock);
	while (out->busy)
		pthread_cond_wait(&out->changed, &out->lock);
	check(out);
	empty = out->working;
	out->working = out->filling;
	out->worked = out->filled;
	out->busy = 1;
	pthread_cond_signal(&out->changed);
	pthread_mutex_unlock(&out->lock);
	out->filling = empty;
	out->filling.size = 0;
	out->filled = 0;
}

struct stream_out *
stream_create(const char *path, const json_t *header)
{
	struct stream_out *out = mem_zero(1, sizeof *out);
	char why[REASON_MAX];

	out->header = json_deep_copy(header);
	if (layout_parse(out->header, &out->layout, why))
		die("cannot write such a stream: %s", why);
	out->fd = STDOUT_FILENO;
	out->name = path ? mem_format("'%s'", path) : mem_string("<stdout>");
	if (path) {
		out->file = file_create(path);
		out->fd = fileno(out->file->f);
	}
	if (isatty(out->fd))
		die("refusing to write a stream to a terminal");
	fcntl(out->fd, F_SETPIPE_SZ, PIPE_SIZE);
	out->z = ZSTD_createCCtx();
	if (!out->z)
		die("out of memory");
	ZSTD_CCtx_setParameter(out->z, ZSTD_c_compressionLevel, LEVEL);
	ZSTD_CCtx_setParameter(out->z, ZSTD_c_checksumFlag, 1);
	pthread_mutex_init(&out->lock, NULL);
	pthread_cond_init(&out->changed, NULL);
	if ((errno = pthread_create(&out->thread, NULL, work, out)))
		die("cannot start a thread:");
	header_pack(out->header, &out->filling);
	hand_over(out);
	return out;
}

void
stream_put(struct stream_out *out, const struct record *r)
{
	record_pack(&out->layout, r, &out->filling);
	out->filled++;
	out->records++;
	if (out->filling.size >= FRAME_TARGET)
		hand_over(out);
}

void
stream_flush(struct stream_out *out)
{
	if (out->filled)
		hand_over(out);
}

static void
join(struct stream_out *out)
{
	pthread_mutex_lock(&out->lock);
	out->finished = 1;
	pthread_cond_signal(&out->changed);
	pthread_mutex_unlock(&out->lock);
	pthread_join(out->thread, NULL);
	check(out);
}

void
stream_finish(struct stream_out *out)
{
	stream_flush(out);
	end_pack(out->records, &out->filling);
	hand_over(out);
	join(out);
	out->packed.size = 0;
	index_pack(out->entries.data, (uint32_t)(out->entries.size / INDEX_ENTRY), out->records,
	    out->written, &out->packed);
	write_all(out, out->packed.data, out->packed.size);
	check(out);
	if (out->file)
		file_commit(out->file);
	pthread_mutex_destroy(&out->lock);
	pthread_cond_destroy(&out->changed);
	ZSTD_freeCCtx(out->z);
	json_decref(out->header);
	free(out->name);
	free(out->filling.data);
	free(out->working.data);
	free(out->packed.data);
	free(out->entries.data);
	free(out);
}
