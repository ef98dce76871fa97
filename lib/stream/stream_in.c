/* SPDX-License-Identifier: MIT */
/*
 * The reading side of stream.h. In order, a thread reads and unpacks one frame
 * ahead of the caller; at random, the index says where a record's frame is.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/stream/record.h"

enum { PIPE_SIZE = 1 << 20, CHUNK = 1 << 20 };

struct slot {
	struct buffer content;
	uint64_t at;			/* where its frame begins */
	uint32_t records;
	int full;
	int rc;				/* 1 a frame, 0 the end, -1 see why */
	char why[REASON_MAX];
};

enum { RECENT = 64 };			/* frames kept for random access: 16 MiB, all of a small file */

struct place {
	uint64_t at;			/* of a frame in the file */
	uint64_t first;			/* number of its first record */
};

struct stream_in {
	char *name;			/* as messages have it */
	int fd;
	int regular;			/* a file, whose stream begins at `start` */
	int between_pipes;		/* this is one, and stdout is another */
	uint64_t start;
	json_t *header;
	struct layout layout;
	uint64_t shard, shards;
	json_t *text;			/* of the record given out */
	struct buffer plain;		/* its tensors, unshuffled */

	uint64_t at;			/* in order: bytes read so far */
	uint64_t part;			/* where this part began */
	uint64_t part_records;
	struct buffer entries;		/* the index that this part should have */
	struct buffer packed, expected;
	ZSTD_DCtx *z;

	pthread_t thread;
	int started, stop;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct slot slots[2];
	int current, holding;		/* the slot that the caller reads; whether it has one */
	size_t used;			/* bytes of it */
	uint32_t taken;			/* records of it */
	uint64_t record;		/* number of the next */

	struct place *places;		/* at random: frames, and one past the last; NULL until needed */
	int nplaces, capplaces;
	ZSTD_DCtx *random_z;
	struct buffer random_packed, random_content;
	struct { int place; struct buffer content; } recent[RECENT];	/* frames; place + 1, 0: none */
};

/* Reading in order: all return 1, 0 at the end of the input, or -1 and what `name` does wrong. */

static int
stdout_is_pipe(void)
{
	struct stat st;

	return !fstat(STDOUT_FILENO, &st) && S_ISFIFO(st.st_mode);
}

/*
 * Whether there is something to read. Between two pipes, the reader behind us may leave while nothing comes in.
 * Writing would end us by SIGPIPE then; in a loop the writer before us waits for that reader, so we end at once.
 */
static int
wait_for_input(int fd)
{
	struct pollfd both[2] = { { .fd = fd, .events = POLLIN }, { .fd = STDOUT_FILENO } };

	while (poll(both, 2, -1) < 0 && errno == EINTR)
		;
	if (both[0].revents || !(both[1].revents & POLLERR))
		return 1;
	raise(SIGPIPE);
	errno = EPIPE;
	return 0;
}

/* Only here may the thread be cancelled. */
static ssize_t
read_some(const struct stream_in *in, void *p, size_t size)
{
	ssize_t n = -1;
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	if (!in->between_pipes || wait_for_input(in->fd))
		do
			n = read(in->fd, p, size);
		while (n < 0 && errno == EINTR);
	pthread_setcancelstate(old, NULL);
	return n;
}

/* How many of `size` bytes there were, or -1. */
static ssize_t
read_up_to(struct stream_in *in, unsigned char *p, size_t size, char *why)
{
	size_t got = 0;
	ssize_t n = 1;

	for (; got < size && n > 0; got += (size_t)n)
		if ((n = read_some(in, p + got, size - got)) < 0)
			return reason(why, "cannot be read: %s", strerror(errno));
	in->at += got;
	return (ssize_t)got;
}

static int
read_exactly(struct stream_in *in, unsigned char *p, size_t size, char *why)
{
	ssize_t got = read_up_to(in, p, size, why);

	if (got >= 0 && (size_t)got < size)
		return reason(why, "ends early, at byte %" PRIu64, in->at);
	return got < 0 ? -1 : 1;
}

static int
damaged(uint64_t at, char *why)
{
	char what[REASON_MAX];

	strcpy(what, why);
	return reason(why, "is damaged at byte %" PRIu64 ": %.*s", at, REASON_MAX - 64, what);
}

/* A large claim gets memory only as bytes arrive. */
static int
read_packed(struct stream_in *in, size_t size, char *why)
{
	struct buffer *b = &in->packed;
	size_t n;

	for (b->size = 0; b->size < size; b->size += n) {
		n = size - b->size < CHUNK ? size - b->size : CHUNK;
		if (read_exactly(in, buffer_reserve(b, n), n, why) < 0)
			return -1;
	}
	return 1;
}

static void
note_entry(struct stream_in *in, const struct label *label)
{
	unsigned char *entry = buffer_reserve(&in->entries, INDEX_ENTRY);

	put32(entry, label->packed);
	put32(entry + 4, label->records);
	in->entries.size += INDEX_ENTRY;
	in->part_records += label->records;
}

/* The frame behind a label that was read already. */
static int
read_frame(struct stream_in *in, const unsigned char *bytes, struct label *label,
    struct buffer *content, char *why)
{
	uint64_t at = in->at - LABEL;

	if (label_parse(bytes, label, why))
		return damaged(at, why);
	if (read_packed(in, label->packed, why) < 0)
		return -1;
	if (frame_unpack(in->z, bytes, label, in->packed.data, content, why))
		return damaged(at, why);
	note_entry(in, label);
	return 1;
}

/* The label of a part; what is no stream at all is called so. */
static int
read_part_label(struct stream_in *in, unsigned char *bytes, char *why)
{
	static const unsigned char like[12] = "\x50\x2a\x4d\x18\x18\0\0\0psfr";
	ssize_t got = read_up_to(in, bytes, LABEL, why);
	size_t compared = got < (ssize_t)sizeof like ? (size_t)got : sizeof like;

	if (got <= 0)
		return (int)got;
	if (memcmp(bytes, like, compared)) {
		if (!in->header)
			return reason(why, "is not a pipestill stream");
		return reason(why, "is damaged at byte %" PRIu64 ": no frame begins there", in->part);
	}
	if (got < LABEL)
		return reason(why, "ends early, at byte %" PRIu64, in->at);
	return 1;
}

/* The header of the first part, or of a later one that must agree. */
static int
read_header(struct stream_in *in, char *why)
{
	unsigned char bytes[LABEL];
	struct buffer content = { 0 };
	struct label label;
	struct layout layout;
	json_t *header = NULL;
	int rc;

	in->part = in->at;
	in->part_records = 0;
	in->entries.size = 0;
	if ((rc = read_part_label(in, bytes, why)) > 0 &&
	    (rc = read_frame(in, bytes, &label, &content, why)) > 0) {
		rc = header_unpack(content.data, content.size, &header, &layout, why);
		if (!rc && in->header)
			rc = header_agrees(in->header, header, why);
		rc = rc ? damaged(in->part, why) : 1;
	}
	free(content.data);
	if (rc < 0 || in->header) {
		json_decref(header);
		return rc;
	}
	in->header = header;
	in->layout = layout;
	return rc;
}

/* The index is known by now, so that it is read by comparing. */
static int
read_index(struct stream_in *in, char *why)
{
	uint64_t at = in->at;

	in->expected.size = 0;
	index_pack(in->entries.data, (uint32_t)(in->entries.size / INDEX_ENTRY), in->part_records,
	    at - in->part, &in->expected);
	if (read_packed(in, in->expected.size, why) < 0)
		return -1;
	if (memcmp(in->packed.data, in->expected.data, in->expected.size)) {
		reason(why, "its index is not that of the frames before it");
		return damaged(at, why);
	}
	return 1;
}

/* The next frame of records, past the ends of parts. */
static int
next_frame(struct stream_in *in, struct slot *slot)
{
	unsigned char bytes[LABEL];
	struct label label;
	uint64_t records;
	int rc;

	for (;;) {
		slot->at = in->at;
		if (read_exactly(in, bytes, LABEL, slot->why) < 0 ||
		    read_frame(in, bytes, &label, &slot->content, slot->why) < 0)
			return -1;
		slot->records = label.records;
		if (label.records)
			return 1;
		if (end_unpack(slot->content.data, slot->content.size, &records)) {
			reason(slot->why, "it holds neither records nor an end mark");
			return damaged(slot->at, slot->why);
		}
		if (records != in->part_records) {
			reason(slot->why, "its end mark counts %" PRIu64 " records, there were %" PRIu64,
			    records, in->part_records);
			return damaged(slot->at, slot->why);
		}
		if ((rc = read_index(in, slot->why)) <= 0 || (rc = read_header(in, slot->why)) <= 0)
			return rc;
	}
}

static void *
read_ahead(void *arg)
{
	struct stream_in *in = arg;
	struct slot *slot;
	int i = 0, rc = 1, stopped;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	for (; rc > 0; i ^= 1) {
		slot = &in->slots[i];
		pthread_mutex_lock(&in->lock);
		while (slot->full && !in->stop)
			pthread_cond_wait(&in->changed, &in->lock);
		stopped = in->stop;
		pthread_mutex_unlock(&in->lock);
		if (stopped)
			break;
		rc = next_frame(in, slot);
		pthread_mutex_lock(&in->lock);
		slot->rc = rc;
		slot->full = 1;
		pthread_cond_signal(&in->changed);
		pthread_mutex_unlock(&in->lock);
	}
	return NULL;
}

static void
start(struct stream_in *in)
{
	if ((errno = pthread_create(&in->thread, NULL, read_ahead, in)))
		die("cannot start a thread:");
	in->started = 1;
}

/* Give back the current slot, if it is used up, and take the next. */
static struct slot *
take(struct stream_in *in)
{
	struct slot *slot = &in->slots[in->current];

	pthread_mutex_lock(&in->lock);
	if (in->holding) {
		slot->full = 0;
		in->current ^= 1;
		slot = &in->slots[in->current];
		pthread_cond_signal(&in->changed);
	}
	while (!slot->full)
		pthread_cond_wait(&in->changed, &in->lock);
	pthread_mutex_unlock(&in->lock);
	in->holding = 1;
	in->used = 0;
	in->taken = 0;
	return slot;
}

_Noreturn static void
die_damaged(const struct stream_in *in, uint64_t at, char *why)
{
	damaged(at, why);
	die("%s %s", in->name, why);
}

static void
forget_record(struct stream_in *in)
{
	json_decref(in->text);
	in->text = NULL;
}

static void
unpack(struct stream_in *in, const unsigned char *p, uint64_t at, struct record *r)
{
	char why[REASON_MAX];

	if (record_unpack(&in->layout, p, r, &in->plain, why))
		die_damaged(in, at, why);
	in->text = r->text;
}

/* The next record of the slot, or NULL when it has none left. */
static const unsigned char *
advance(struct stream_in *in, struct slot *slot)
{
	const unsigned char *p = slot->content.data + in->used;
	int64_t size;

	if (in->taken == slot->records) {
		if (in->used == slot->content.size)
			return NULL;
		strcpy(slot->why, "there are bytes after its last record");
		die_damaged(in, slot->at, slot->why);
	}
	size = record_size(&in->layout, p, slot->content.size - in->used, slot->why);
	if (size < 0)
		die_damaged(in, slot->at, slot->why);
	in->used += (size_t)size;
	in->taken++;
	return p;
}

int
stream_get(struct stream_in *in, struct record *r)
{
	const unsigned char *p = NULL;
	struct slot *slot;

	forget_record(in);
	if (!in->started)
		start(in);
	slot = &in->slots[in->current];
	if (!in->holding)
		slot = take(in);
	for (;;) {
		if (slot->rc < 0)
			die("%s %s", in->name, slot->why);
		if (slot->rc == 0)
			return 0;
		if (!(p = advance(in, slot)))
			slot = take(in);
		else if (in->record++ % in->shards == in->shard)
			break;
	}
	unpack(in, p, slot->at, r);
	return 1;
}

int
stream_more(const struct stream_in *in)
{
	const struct slot *slot = &in->slots[in->current];
	uint64_t left, i;

	if (!in->holding || slot->rc <= 0)
		return 0;
	left = slot->records - in->taken;
	for (i = 0; i < left && i < in->shards; i++)
		if ((in->record + i) % in->shards == in->shard)
			return 1;
	return 0;
}

static void
check_type(const struct stream_in *in, const char *want)
{
	const char *type = stream_type(in), *p;
	size_t n = strlen(type);
	char *list, *bar;

	if (!strcmp(want, "any"))
		return;
	for (p = want; p; p = (p = strchr(p, '|')) ? p + 1 : NULL)
		if (!strncmp(p, type, n) && (!p[n] || p[n] == '|'))
			return;
	list = mem_string("");
	for (p = want; p; p = *bar ? bar + 1 : NULL) {
		char *longer;

		bar = strchrnul(p, '|');
		longer = mem_format("%s%s%.*s", list, *list ? " or " : "", (int)(bar - p), p);
		free(list);
		list = longer;
	}
	die("%s carries %s, not %s", in->name, type, list);
}

struct stream_in *
stream_open(const char *path, const char *want)
{
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;

	if (fd < 0)
		die("cannot open '%s':", path);
	return stream_open_fd(fd, path, want);
}

struct stream_in *
stream_open_fd(int fd, const char *path, const char *want)
{
	struct stream_in *in = mem_zero(1, sizeof *in);
	char why[REASON_MAX];
	struct stat st;
	off_t offset;
	int rc;

	in->fd = fd;
	if (fstat(in->fd, &st))
		die("cannot open '%s':", path ? path : "<stdin>");
	in->name = path ? mem_format("'%s'", path) : mem_string("<stdin>");
	fcntl(in->fd, F_SETPIPE_SZ, PIPE_SIZE);
	offset = lseek(in->fd, 0, SEEK_CUR);
	in->regular = S_ISREG(st.st_mode) && offset >= 0;
	in->start = in->regular ? (uint64_t)offset : 0;
	in->between_pipes = !in->regular && stdout_is_pipe();
	in->shards = 1;
	pthread_mutex_init(&in->lock, NULL);
	pthread_cond_init(&in->changed, NULL);
	if (!(in->z = ZSTD_createDCtx()))
		die("out of memory");
	rc = read_header(in, why);
	if (rc < 0)
		die("%s %s", in->name, why);
	if (!rc)
		die("%s is empty", in->name);
	check_type(in, want);
	return in;
}

const json_t *
stream_header(const struct stream_in *in)
{
	return in->header;
}

const char *
stream_type(const struct stream_in *in)
{
	return json_string_value(json_object_get(in->header, "type"));
}

const char *
stream_name(const struct stream_in *in)
{
	return in->name;
}

void
stream_shard(struct stream_in *in, const char *spec)
{
	unsigned shard, shards;
	char rest;

	if (!spec)
		return;
	if (sscanf(spec, "%u/%u%c", &shard, &shards, &rest) != 2 || !shard || shard > shards)
		die_usage("--shard takes i/n with i from 1 to n, not '%s'", spec);
	in->shard = shard - 1;
	in->shards = shards;
}

/* Reading at random. */

static void
read_at(const struct stream_in *in, uint64_t at, unsigned char *p, size_t size)
{
	ssize_t n;

	for (; size; p += n, at += (uint64_t)n, size -= (size_t)n) {
		n = pread(in->fd, p, size, (off_t)(in->start + at));
		if (n < 0 && errno != EINTR)
			die("cannot read %s:", in->name);
		if (n == 0)
			die("%s ends early, at byte %" PRIu64, in->name, at);
		n = n < 0 ? 0 : n;
	}
}

/* What the frame at `at` holds. */
static void
load_frame(struct stream_in *in, uint64_t at, struct label *label, struct buffer *content)
{
	unsigned char bytes[LABEL];
	char why[REASON_MAX];
	size_t n;

	read_at(in, at, bytes, LABEL);
	if (label_parse(bytes, label, why))
		die_damaged(in, at, why);
	for (in->random_packed.size = 0; in->random_packed.size < label->packed;
	    in->random_packed.size += n) {
		n = label->packed - in->random_packed.size;
		n = n < CHUNK ? n : CHUNK;
		read_at(in, at + LABEL + in->random_packed.size, buffer_reserve(&in->random_packed, n), n);
	}
	if (frame_unpack(in->random_z, bytes, label, in->random_packed.data, content, why))
		die_damaged(in, at, why);
}

static void
check_header(struct stream_in *in, uint64_t at)
{
	char why[REASON_MAX];
	struct layout layout;
	struct label label;
	json_t *header;

	load_frame(in, at, &label, &in->random_content);
	if (header_unpack(in->random_content.data, in->random_content.size, &header, &layout, why) ||
	    header_agrees(in->header, header, why))
		die_damaged(in, at, why);
	json_decref(header);
}

/* The index would do without it, but no flipped bit is to go unseen. */
static void
check_end_mark(struct stream_in *in, uint64_t at, uint64_t records)
{
	char why[REASON_MAX] = "its end mark is not that of the records before it";
	struct label label;
	uint64_t marked;

	load_frame(in, at, &label, &in->random_content);
	if (label.records || end_unpack(in->random_content.data, in->random_content.size, &marked) ||
	    marked != records)
		die_damaged(in, at, why);
}

/*
 * The frames of records of the part that ends at byte `end`, prepended to the
 * places; returns where the part begins.
 */
static uint64_t
load_part(struct stream_in *in, uint64_t end)
{
	unsigned char bytes[FOOTER];
	char why[REASON_MAX] = "its index is not that of the frames before it";
	struct footer footer;
	struct buffer index = { 0 };
	uint64_t size, at, last = 0, records = 0;
	const unsigned char *entry;
	uint32_t i, n;

	if (end < FOOTER)
		die("%s ends early, at byte %" PRIu64, in->name, end);
	read_at(in, end - FOOTER, bytes, FOOTER);
	if (footer_parse(bytes, &footer, why))
		die_damaged(in, end - FOOTER, why);
	size = INDEX_START + (uint64_t)footer.entries * INDEX_ENTRY + FOOTER;
	if (footer.part > end || size > footer.part || footer.entries < 2)
		die_damaged(in, end - FOOTER, why);
	read_at(in, end - size, buffer_reserve(&index, size), size);
	if (XXH3_64bits(index.data, size - 8) != footer.checksum)
		die_damaged(in, end - size, why);
	at = end - footer.part;
	for (i = 0; i < footer.entries; i++) {
		entry = index.data + INDEX_START + (size_t)i * INDEX_ENTRY;
		if ((n = get32(entry + 4)))
			MEM_PUSH(in->places, in->nplaces, in->capplaces, ((struct place){ at, n }));
		records += n;
		last = at;
		at += LABEL + get32(entry);
	}
	if (at != end - size || records != footer.records)
		die_damaged(in, end - size, why);
	free(index.data);
	check_header(in, end - footer.part);
	check_end_mark(in, last, records);
	return end - footer.part;
}

static int
by_offset(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	return (x->at > y->at) - (x->at < y->at);
}

static void
load_index(struct stream_in *in)
{
	uint64_t end, records = 0, n;
	struct stat st;
	int i;

	if (in->places)
		return;
	if (fstat(in->fd, &st))
		die("cannot read %s:", in->name);
	if (!(in->random_z = ZSTD_createDCtx()))
		die("out of memory");
	for (end = (uint64_t)st.st_size - in->start; end; )
		end = load_part(in, end);
	MEM_PUSH(in->places, in->nplaces, in->capplaces, ((struct place){ UINT64_MAX, 0 }));
	qsort(in->places, (size_t)in->nplaces, sizeof *in->places, by_offset);
	for (i = 0; i < in->nplaces; i++) {
		n = in->places[i].first;
		in->places[i].first = records;
		records += n;
	}
}

int
stream_seekable(const struct stream_in *in)
{
	return in->regular;
}

static uint64_t
all_records(struct stream_in *in)
{
	if (!in->regular)
		die("%s is a pipe: its records can only be read in order", in->name);
	load_index(in);
	return in->places[in->nplaces - 1].first;
}

uint64_t
stream_count(struct stream_in *in)
{
	return (all_records(in) + in->shards - 1 - in->shard) / in->shards;
}

static int
find_place(const struct stream_in *in, uint64_t record)
{
	int low = 0, high = in->nplaces - 1, middle;

	while (high - low > 1) {
		middle = low + (high - low) / 2;
		if (in->places[middle].first <= record)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static const struct buffer *
frame_at(struct stream_in *in, int place)
{
	int slot = place % RECENT;
	struct label label;

	if (in->recent[slot].place != place + 1) {
		in->recent[slot].place = 0;
		load_frame(in, in->places[place].at, &label, &in->recent[slot].content);
		in->recent[slot].place = place + 1;
	}
	return &in->recent[slot].content;
}

void
stream_read(struct stream_in *in, uint64_t index, struct record *r)
{
	uint64_t record = index * in->shards + in->shard, at, skip;
	char why[REASON_MAX];
	const struct buffer *frame;
	size_t used = 0;
	int64_t size;
	int place;

	forget_record(in);
	if (index >= stream_count(in))
		die("%s has no record %" PRIu64, in->name, index);
	place = find_place(in, record);
	at = in->places[place].at;
	frame = frame_at(in, place);
	for (skip = record - in->places[place].first; ; skip--) {
		size = record_size(&in->layout, frame->data + used, frame->size - used, why);
		if (size < 0)
			die_damaged(in, at, why);
		if (!skip)
			break;
		used += (size_t)size;
	}
	unpack(in, frame->data + used, at, r);
}

static void
stop(struct stream_in *in)
{
	pthread_mutex_lock(&in->lock);
	in->stop = 1;
	pthread_cond_signal(&in->changed);
	pthread_mutex_unlock(&in->lock);
	pthread_cancel(in->thread);
	pthread_join(in->thread, NULL);
}

void
stream_close(struct stream_in *in)
{
	int i;

	if (in->started)
		stop(in);
	if (in->fd != STDIN_FILENO)
		close(in->fd);
	forget_record(in);
	json_decref(in->header);
	ZSTD_freeDCtx(in->z);
	ZSTD_freeDCtx(in->random_z);
	pthread_mutex_destroy(&in->lock);
	pthread_cond_destroy(&in->changed);
	free(in->slots[0].content.data);
	free(in->slots[1].content.data);
	free(in->entries.data);
	free(in->packed.data);
	free(in->expected.data);
	free(in->plain.data);
	free(in->random_packed.data);
	free(in->random_content.data);
	for (i = 0; i < RECENT; i++)
		free(in->recent[i].content.data);
	free(in->places);
	free(in->name);
	free(in);
}
