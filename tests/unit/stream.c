/* SPDX-License-Identifier: MIT */
/* streams: what goes in comes out; what is not a whole, undamaged stream is found */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/stream/record.h"
#include "lib/stream/stream.h"
#include "tests/unit/tap.h"

enum { RECORDS = 3000 };		/* of the large stream: several frames */
#ifdef __SANITIZE_ADDRESS__
enum { STRIDE = 13 };			/* forks are slow there */
#else
enum { STRIDE = 1 };
#endif

static char dir[] = "/tmp/stream-test.XXXXXX";
static const struct common common = { .argc = 3,
    .argv = (const char *[]){ "stream", "-m", "a model's", NULL } };
static const char *arg;			/* of what runs in a child */
static int in_child;

/* LeakSanitizer asks at exit: who dies frees nothing. */
int __lsan_is_turned_off(void);
int
__lsan_is_turned_off(void)
{
	return in_child;
}

static const char *
in_dir(const char *file)
{
	static char paths[4][64];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof paths[0], "%s/%s", dir, file);
	return path;
}

/* Run f in a child with stdin from `input`; its exit status, and what it said on stderr. */
static int
child(void (*f)(void), const char *input, char said[1024])
{
	int fds[2], status;
	ssize_t n;
	size_t got = 0;
	pid_t pid;

	fflush(stdout);
	if (pipe(fds) || (pid = fork()) < 0)
		return -1;
	if (!pid) {
		int fd = open(input ? input : "/dev/null", O_RDONLY);

		in_child = 1;
		dup2(fd, 0);
		dup2(fds[1], 2);
		close(fds[0]);
		f();
		exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], said + got, 1023 - got)) > 0)
		got += (size_t)n;
	said[got] = '\0';
	close(fds[0]);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int
dies(void (*f)(void), const char *input, const char *message)
{
	char said[1024];
	int status = child(f, input, said);

	if (status == 1 && strstr(said, message))
		return 1;
	printf("# exit %d, said: %s# expected: %s\n", status, said, message);
	return 0;
}

static void
write_bytes(const char *path, const void *data, size_t size)
{
	FILE *f = fopen(path, "w");

	if (!f || fwrite(data, 1, size, f) != size || fclose(f))
		die("cannot write '%s':", path);
}

/* Record i of a stream of `type`; n rows, so that records are ragged. */
static void
put_numbered(struct stream_out *out, int i)
{
	int32_t ids[64];
	int32_t supervised[4] = { 1, 2, 3, 4 };
	float x[64 * 3];
	uint16_t half[64];
	uint64_t n = (uint64_t)i % 64, two[2] = { (uint64_t)i % 3, 2 }, three[2] = { n, 3 }, one[1] = { n };
	struct record r = { .text = json_pack("{ss+ si}", "id", "r", "x", "number", i) };
	uint64_t k;

	for (k = 0; k < n; k++) {
		ids[k] = i + (int)k;
		half[k] = f32_to_bf16((float)i / 7);
		x[3 * k] = x[3 * k + 1] = x[3 * k + 2] = sinf((float)(i + (int)k));
	}
	record_add(&r, "x", DT_F32, 2, three, x);
	record_add(&r, "ids", DT_I32, 1, one, ids);
	record_add(&r, "supervised", DT_I32, 2, two, supervised);
	record_add(&r, "half", DT_BF16, 1, one, half);
	record_add(&r, "undeclared", DT_BF16, 1, one, half);
	stream_put(out, &r);
	json_decref(r.text);
}

static int
is_numbered(const struct record *r, int i)
{
	const struct tensor *ids = record_need(r, "ids", DT_I32), *x = record_need(r, "x", DT_F32);
	const struct tensor *half = record_need(r, "half", DT_BF16);
	uint64_t n = (uint64_t)i % 64, k;
	int same = json_integer_value(json_object_get(r->text, "number")) == i;

	same &= ids->shape[0] == n && x->shape[0] == n && x->rank == 2 && x->shape[1] == 3;
	same &= record_need(r, "supervised", DT_I32)->shape[0] == (uint64_t)i % 3;
	same &= !record_tensor(r, "undeclared") && (uintptr_t)x->data % 64 == 0 &&
	    (uintptr_t)ids->data % 64 == 0;
	for (k = 0; same && k < n; k++) {
		same &= ((const int32_t *)ids->data)[k] == i + (int)k;
		same &= ((const float *)x->data)[3 * k + 2] == sinf((float)(i + (int)k));
		same &= ((const uint16_t *)half->data)[k] == f32_to_bf16((float)i / 7);
	}
	return same;
}

static json_t *
numbered_header(const char *type)
{
	json_t *header = header_new(type, NULL, &common);
	uint64_t two = 2, three = 3;

	header_field(header, "ids", DT_I32, 0, NULL);
	header_field(header, "supervised", DT_I32, 1, &two);
	header_field(header, "x", DT_F32, 1, &three);
	header_field(header, "half", DT_BF16, 0, NULL);
	json_object_set_new(header, "tokenizer", json_string("abc"));
	return header;
}

static void
write_numbered(const char *path, int from, int to)
{
	json_t *header = numbered_header("tokens");
	struct stream_out *out = stream_create(path, header);

	for (; from < to; from++)
		put_numbered(out, from);
	stream_finish(out);
	json_decref(header);
}

static void
concatenate(const char *to, const char *a, const char *b)
{
	size_t na, nb;
	char *x = file_read(a, &na), *y = file_read(b, &nb);

	x = mem_grow(x, na + nb, 1);
	memcpy(x + na, y, nb);
	write_bytes(to, x, na + nb);
	free(x);
	free(y);
}

static void
read_stdin(void)
{
	struct stream_in *in = stream_open(NULL, "tokens|rollouts");
	struct record r;

	while (stream_get(in, &r))
		;
	stream_close(in);
}

static void
read_random(void)
{
	struct stream_in *in = stream_open(arg, "any");
	struct record r;
	uint64_t i;

	for (i = 0; i < stream_count(in); i++)
		stream_read(in, i, &r);
	stream_close(in);
}

static void
test_dtype(void)
{
	static float wide[65536];
	static uint16_t halves[65536], back[65536];
	int same = 1, ties = 1, i;

	for (i = 0; i < 65536; i++)
		halves[i] = (uint16_t)i;
	dtype_convert(wide, DT_F32, halves, DT_F16, 65536);
	dtype_convert(back, DT_F16, wide, DT_F32, 65536);
	for (i = 0; i < 65536; i++)
		same &= back[i] == i || (isnan(wide[i]) && isnan(f16_to_f32(back[i])));
	ok(same && wide[1] == 0x1p-24f && wide[0x7bff] == 65504, "every f16 survives f32");
	for (i = 0; i < 0x7bff; i++) {
		float middle = (wide[i] + wide[i + 1]) / 2;

		ties &= f32_to_f16(middle) == i + (i & 1);
		ties &= f32_to_f16(nextafterf(middle, 0)) == i;
		ties &= f32_to_f16(-nextafterf(middle, 1e9f)) == ((i + 1) | 0x8000);
	}
	ok(ties, "f32 to f16 goes to the nearest, ties to even, subnormals too");
	ok(f32_to_f16(65519.996f) == 0x7bff && f32_to_f16(65520) == 0x7c00 &&
	    f32_to_f16(-INFINITY) == 0xfc00 && isnan(f16_to_f32(f32_to_f16(NAN))),
	    "what is too large for f16 is infinite, a NaN stays one");
	dtype_convert(back, DT_BF16, halves, DT_F16, 1024);
	for (same = 1, i = 0; i < 1024; i++)
		same &= back[i] == f32_to_bf16(wide[i]);
	ok(same, "f16 becomes bf16 by way of f32");
	for (same = 1, i = DT_F32; i <= DT_U64; i++)
		same &= dtype_parse(dtype_name((enum dtype)i)) == (enum dtype)i;
	ok(same && dtype_parse("BF16") == DT_BF16 && dtype_parse("f8") == DT_NONE, "dtypes have names");
}

static void
test_shuffle(void)
{
	unsigned char a[8 * 99], b[sizeof a], c[sizeof a];
	size_t size, i;
	int same = 1;

	for (i = 0; i < sizeof a; i++)
		a[i] = (unsigned char)(i * 37);
	for (size = 1; size <= 8; size *= 2) {
		dtype_shuffle(b, a, 99, size);
		dtype_unshuffle(c, b, 99, size);
		same &= b[1] == a[size] && !memcmp(a, c, 99 * size);
	}
	ok(same, "byte planes are put together again");
}

static void
test_file(void)
{
	char *part, *path = mem_string(in_dir("model")), *inside;
	struct file *file;
	size_t n;
	int i;

	file = file_create(in_dir("plain"));
	file_write(file, "two", 3);
	ok(!file_exists(in_dir("plain")) && file_exists(in_dir("plain.part")), "a file grows beside its name");
	file_commit(file);
	part = file_read(in_dir("plain"), &n);
	ok(!strcmp(part, "two") && !file_exists(in_dir("plain.part")), "and takes it when complete");
	free(part);
	for (i = 0; i < 2; i++) {
		part = file_directory(path);
		inside = file_join(part, i ? "new" : "old");
		write_bytes(inside, "x", 1);
		file_directory_commit(part, path);
		free(inside);
	}
	ok(file_exists(in_dir("model/new")) && !file_exists(in_dir("model/old")) &&
	    !file_exists(in_dir("model.part")), "a directory replaces the one before it");
	write_bytes(in_dir("empty"), "", 0);
	ok(file_map(in_dir("empty")).data && !file_read(in_dir("absent"), &n) && errno == ENOENT,
	    "an empty file maps, an absent one cannot be read");
	free(path);
}

static void
abandon(void)
{
	json_t *header = numbered_header("tokens");
	struct stream_out *out = stream_create(in_dir("abandoned"), header);

	put_numbered(out, 1);
	stream_flush(out);
	free(file_directory(in_dir("abandoned-model")));
	die("enough");
}

static void
test_round_trip(void)
{
	struct stream_in *in;
	struct record r;
	int i = 0, same = 1;

	write_numbered(in_dir("large"), 0, RECORDS);
	in = stream_open(in_dir("large"), "tokens");
	for (; stream_get(in, &r); i++)
		same &= is_numbered(&r, i) && !strcmp(record_id(&r), "rx");
	ok(same && i == RECORDS && !stream_get(in, &r), "records come back as they were, then the end");
	ok(!strcmp(json_string_value(json_array_get(json_object_get(stream_header(in), "history"), 0)),
	    "pipestill -m 'a model'\\''s'"), "the history has the command line as a shell takes it");
	stream_close(in);
	in = stream_open(in_dir("large"), "any");
	ok(stream_get(in, &r), "a stream may be closed before its end");
	stream_close(in);
	ok(dies(abandon, NULL, "enough") && !file_exists(in_dir("abandoned")) &&
	    !file_exists(in_dir("abandoned.part")) && !file_exists(in_dir("abandoned-model.part")),
	    "who dies leaves nothing half-written");
}

static void
test_random(void)
{
	struct stream_in *in;
	struct record r;
	int same = 1, i, k;

	write_numbered(in_dir("a"), 0, 700);
	write_numbered(in_dir("b"), 700, RECORDS);
	concatenate(in_dir("ab"), in_dir("a"), in_dir("b"));
	write_numbered(in_dir("none"), 0, 0);
	concatenate(in_dir("nothing"), in_dir("none"), in_dir("none"));
	concatenate(in_dir("joined"), in_dir("ab"), in_dir("none"));
	in = stream_open(in_dir("joined"), "any");
	for (i = 0; stream_get(in, &r); i++)
		same &= is_numbered(&r, i);
	ok(same && i == RECORDS, "cat a b is a stream");
	ok(stream_seekable(in) && stream_count(in) == RECORDS, "its records are counted");
	for (same = 1, i = 0; i < 2 * RECORDS; i++) {
		k = (int)((unsigned)i * 2654435761u % RECORDS);
		stream_read(in, (uint64_t)k, &r);
		same &= is_numbered(&r, k);
	}
	ok(same, "and read at random");
	stream_close(in);
	in = stream_open(in_dir("nothing"), "tokens");
	ok(stream_count(in) == 0 && !stream_get(in, &r), "a stream may have no records");
	stream_close(in);
}

static void
test_shard(void)
{
	int seen[RECORDS] = { 0 }, same = 1, once = 1, i, k;
	char spec[8];
	struct stream_in *in;
	struct record r;

	for (i = 0; i < 7; i++) {
		in = stream_open(in_dir("joined"), "any");
		snprintf(spec, sizeof spec, "%d/7", i + 1);
		stream_shard(in, spec);
		for (k = i; stream_get(in, &r); k += 7) {
			same &= is_numbered(&r, k);
			seen[k]++;
		}
		stream_read(in, 5, &r);
		same &= stream_count(in) == (uint64_t)(RECORDS - i + 6) / 7 && is_numbered(&r, 35 + i);
		stream_close(in);
	}
	for (i = 0; i < RECORDS; i++)
		once &= seen[i] == 1;
	ok(same && once, "the shards are every n-th record, each once, in order and at random");
}

static void
test_flush(void)
{
	json_t *header = numbered_header("tokens");
	int fds[2], saved = dup(1), i, same = 1;
	struct stream_out *out;
	struct stream_in *in;
	struct record r;

	fflush(stdout);
	/* no pipe: between two of them stdout is watched, and our own end would stay open as long as that lasts */
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		die("cannot make a pair of sockets:");
	dup2(fds[1], 1);
	close(fds[1]);
	out = stream_create(NULL, header);
	dup2(fds[0], 0);
	in = stream_open(NULL, "tokens");
	for (i = 0; i < 50; i++) {
		put_numbered(out, i);
		stream_flush(out);
		same &= stream_get(in, &r) && is_numbered(&r, i);
	}
	stream_finish(out);
	dup2(saved, 1);
	ok(same && !stream_get(in, &r), "a flushed record arrives before the next is made");
	ok(!stream_seekable(in), "what is no file is read in order only");
	stream_close(in);
	close(fds[0]);
	close(saved);
	json_decref(header);
}

static void
write_full(void)
{
	dup2(open("/dev/full", O_WRONLY), 1);
	write_numbered(NULL, 0, RECORDS);
}

static void
write_terminal(void)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY);

	if (grantpt(fd) || unlockpt(fd))
		die("no terminal");
	dup2(open(ptsname(fd), O_RDWR | O_NOCTTY), 1);
	write_numbered(NULL, 0, 1);
}

static void
write_incomplete(void)
{
	json_t *header = numbered_header("tokens");
	struct record r = { .text = json_pack("{ss}", "id", "seven") };

	stream_put(stream_create(in_dir("incomplete"), header), &r);
}

static void
write_unschematic(void)
{
	json_t *header = header_new("tokens", NULL, &common);

	header_field(header, "ids", DT_I64, 0, NULL);
	stream_create(in_dir("incomplete"), header);
}

static void
test_refusals(void)
{
	json_t *header = numbered_header("rewards");
	char said[1024];

	write_bytes(in_dir("text"), "{\"prompt\": 1}\n", 14);
	write_bytes(in_dir("p"), "P", 1);
	write_numbered(in_dir("small"), 1, 3);
	json_object_set_new(header, "type", json_string("other"));
	stream_finish(stream_create(in_dir("other"), header));
	concatenate(in_dir("mixed"), in_dir("small"), in_dir("other"));
	concatenate(in_dir("trailing"), in_dir("small"), in_dir("text"));
	json_decref(header);
	ok(dies(read_stdin, NULL, "<stdin> is empty"), "an empty input is said to be empty");
	ok(dies(read_stdin, in_dir("text"), "<stdin> is not a pipestill stream"), "so is what is none");
	ok(dies(read_stdin, in_dir("p"), "<stdin> ends early, at byte 1"), "one byte may begin a stream");
	ok(dies(read_stdin, in_dir("other"), "<stdin> carries other, not tokens or rollouts"),
	    "a wrong type is named");
	ok(dies(read_stdin, in_dir("mixed"), "its 'type' is not that of the stream before it"),
	    "types do not mix");
	ok(dies(read_stdin, in_dir("trailing"), "no frame begins there"), "nothing else may follow");
	arg = in_dir("mixed");
	ok(dies(read_random, NULL, "its 'type' is not that"), "nor at random");
	ok(dies(write_full, NULL, "No space left on device"), "a full disk is noticed");
	if (access("/dev/pts/ptmx", F_OK))
		skip("terminals are spared", "there are no pseudo-terminals");
	else
		ok(dies(write_terminal, NULL, "refusing to write a stream to a terminal"), "terminals are spared");
	ok(dies(write_incomplete, NULL, "record 'seven' has no 'ids'"), "a record has all its fields");
	ok(dies(write_unschematic, NULL, "field 'ids' is i64, not i32"), "a header follows its schema");
	ok(child(read_stdin, in_dir("small"), said) == 0, "the small stream is sound");
}

/* The small stream with every bit flipped in turn, and cut at every byte. */
static void
test_damage(void)
{
	size_t n, i, tried = 0, found = 0, cut = 0, cuts = 0, missed = 0;
	unsigned char *data = (unsigned char *)file_read(in_dir("small"), &n);
	const char *path = mem_string(in_dir("damaged"));
	char said[1024], expected[64];
	int status;

	for (i = 0; i < 8 * n; i += STRIDE, tried++) {
		data[i / 8] ^= (unsigned char)(1 << i % 8);
		write_bytes(path, data, n);
		status = child(read_stdin, path, said);
		found += status == 1 && strstr(said, i < 8 * 12 ? "<stdin>" : "at byte");
		data[i / 8] ^= (unsigned char)(1 << i % 8);
	}
	ok(found == tried, "each of %zu flipped bits is found (%zu)", tried, found);
	for (i = 1; i < n; i += STRIDE, cut++) {
		write_bytes(path, data, i);
		snprintf(expected, sizeof expected, "ends early, at byte %zu\n", i);
		status = child(read_stdin, path, said);
		cuts += status == 1 && strstr(said, expected);
	}
	ok(cuts == cut, "each of %zu cuts is found, with its byte (%zu)", cut, cuts);
	for (arg = path, tried = found = i = 0; i < n; i += STRIDE, tried++) {
		data[i] ^= 16;
		write_bytes(path, data, n);
		status = child(read_random, NULL, said);
		found += status == 1;
		missed += status == 0;
		data[i] ^= 16;
	}
	/* only the end frame is not needed at random */
	ok(found + missed == tried && missed < LABEL + 64,
	    "at random, a flipped bit is found wherever it matters (%zu of %zu)", found, tried);
	free(data);
	free((char *)(uintptr_t)path);
}

/* A stream whose frames carry right checksums but any content. */
static void
forge(const char *path, const void *header, size_t nheader, const void *content, size_t size,
    uint32_t records)
{
	struct buffer out = { 0 }, end = { 0 };
	ZSTD_CCtx *z = ZSTD_createCCtx();

	frame_pack(z, header, nheader, 0, &out);
	frame_pack(z, content, size, records, &out);
	end_pack(records, &end);
	frame_pack(z, end.data, end.size, 0, &out);
	write_bytes(path, out.data, out.size);
	ZSTD_freeCCtx(z);
	free(out.data);
	free(end.data);
}

static void
test_forged(void)
{
	static const char *const headers[] = {
		"[]", "{\"type\":\"x\"}", "{\"type\":\"x\",\"fields\":[1]}", "{\"type\":", "{\"type\":\"tokens\",\"fields\":[]}",
		"{\"type\":\"x\",\"fields\":[{\"name\":\"a\",\"dtype\":\"f8\",\"shape\":[]}]}",
		"{\"type\":\"x\",\"fields\":[{\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[0]}]}",
		"{\"type\":\"x\",\"fields\":[{\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[1000000,1000000]}]}",
		"{\"type\":\"x\",\"fields\":[{\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[]},"
		    "{\"name\":\"a\",\"dtype\":\"f32\",\"shape\":[]}]}",
	};
	static const struct { uint32_t mark, text, records; uint64_t a, b; const char *says; } contents[] = {
		{ 0x64636572, 0, 1, 8, 8, NULL },
		{ 0x64636573, 0, 1, 8, 8, "no record begins where one should" },
		{ 0x64636572, UINT32_MAX, 1, 8, 8, "larger than its frame" },
		{ 0x64636572, 0, 1, 1 << 20, 8, "impossible size" },
		{ 0x64636572, 0, 1, UINT64_MAX - 3, 8, "impossible size" },
		{ 0x64636572, 0, 1, 8, 7, "impossible size" },
		{ 0x64636572, 3, 1, 0, 8, "not JSON" },
		{ 0x64636572, 0, 1, 0, 8, "bytes after its last record" },
		{ 0x64636572, 0, 2, 8, 8, "no record begins where one should" },
		{ 0x64636572, 0, 5, 8, 8, "impossible sizes" },
	};
	json_t *header = header_new("tokens", NULL, &common);
	unsigned char content[192], label[LABEL + 4096] = { 0 };
	struct buffer buffer = { 0 };
	const char *path = mem_string(in_dir("forged"));
	uint64_t two = 2;
	size_t i, refused = 0;
	char said[1024];

	for (i = 0; i < sizeof headers / sizeof *headers; i++) {
		memset(content, 0, sizeof content);
		memcpy(content, "pstream\n", 8);
		put32(content + 8, STREAM_VERSION);
		put32(content + 12, (uint32_t)strlen(headers[i]));
		memcpy(content + 16, headers[i], strlen(headers[i]));
		forge(path, content, aligned(16 + strlen(headers[i])), content, 64, 1);
		refused += child(read_stdin, path, said) == 1 && strstr(said, "is damaged at byte 0: ");
	}
	ok(refused == i, "%zu forged headers are refused (%zu)", i, refused);
	header_field(header, "ids", DT_I32, 0, NULL);
	header_field(header, "supervised", DT_I32, 1, &two);
	header_pack(header, &buffer);
	for (i = 0; i < sizeof contents / sizeof *contents; i++) {
		memset(content, 0, sizeof content);
		put32(content, contents[i].mark);
		put32(content + 4, contents[i].text);
		put64(content + 8, contents[i].a);
		put64(content + 16, contents[i].b);
		forge(path, buffer.data, buffer.size, content, 192, contents[i].records);
		ok(dies(read_stdin, path, contents[i].says ? contents[i].says : "ends early"),
		    "a forged record: %s", contents[i].says ? contents[i].says : "this one is good");
	}
	put32(label, FRAME_SKIP);
	put32(label + 4, LABEL - 8);
	memcpy(label + 8, "psfr", 4);
	put32(label + 12, 1 << 29);
	put32(label + 16, FRAME_MAX);
	write_bytes(path, label, sizeof label);
	ok(dies(read_stdin, path, "ends early"), "a frame that claims a gigabyte gets none");
	put32(label + 12, 4000);
	write_bytes(path, label, sizeof label);
	ok(dies(read_stdin, path, "impossible sizes"), "nor one that cannot unpack to what it claims");
	json_decref(header);
	free(buffer.data);
	free((char *)(uintptr_t)path);
}

int
main(void)
{
	if (!mkdtemp(dir))
		die("cannot make a directory:");
	test_dtype();
	test_shuffle();
	test_file();
	test_round_trip();
	test_random();
	test_shard();
	test_flush();
	test_refusals();
	test_damage();
	test_forged();
	file_directory_commit(file_directory(dir), dir);
	rmdir(dir);
	return done();
}
