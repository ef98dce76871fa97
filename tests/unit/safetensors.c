/* SPDX-License-Identifier: MIT */
/* safetensors - what is written is read back, and every way to forge a file is refused */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/model/safetensors.h"
#include "tests/unit/tap.h"

static char why[REASON_MAX], directory[] = "/tmp/safetensors.XXXXXX";

/* A file in memory: length, header, n bytes of data 0, 1, 2 ... */
static unsigned char *
make(const char *header, size_t n, size_t *size)
{
	size_t length = strlen(header), i;
	unsigned char *file = mem_alloc(8 + length + n);

	for (i = 0; i < 8; i++)
		file[i] = (unsigned char)((uint64_t)length >> 8 * i);
	memcpy(file + 8, header, length);
	for (i = 0; i < n; i++)
		file[8 + length + i] = (unsigned char)i;
	*size = 8 + length + n;
	return file;
}

static void
check_good(void)
{
	static const char header[] = "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
	    "\"__metadata__\":{\"format\":\"pt\"},"
	    "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
	    "\"m\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[16,18]},"
	    "\"none\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[18,18]}}   ";
	const struct safetensor *b;
	struct safetensors *st;
	size_t size, cut, refused = 0;
	unsigned char *file = make(header, 18, &size), *copy;

	st = safetensors_parse(file, size, why);
	ok(st && st->count == 4 && !strcmp(st->tensors[0].name, "a") && !strcmp(st->tensors[3].name, "none"),
	    "tensors in any order are read, and sorted by name");
	b = safetensors_find(st, "b");
	ok(b && b->type == DT_BF16 && b->rank == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->bytes == 12 &&
	    *(const unsigned char *)b->data == 4, "a tensor has its type, shape and place");
	ok(!safetensors_find(st, "c") && !safetensors_find(st, ""), "what is not there is not found");
	ok(!strcmp(json_string_value(json_object_get(st->metadata, "format")), "pt"), "metadata are kept");
	safetensors_close(st);
	for (cut = 0; cut < size; cut++) {
		/* of its own size, so that a sanitizer sees a byte too far */
		copy = mem_copy(file, cut);
		st = safetensors_parse(copy, cut, why);
		refused += !st;
		if (st)
			safetensors_close(st);
		free(copy);
	}
	ok(refused == size, "cut at any of %zu bytes it is refused", size);
	free(file);
	file = make("{}", 0, &size);
	st = safetensors_parse(file, size, why);
	ok(st && !st->count && !safetensors_find(st, "a"), "a file of no tensors is a file");
	safetensors_close(st);
	free(file);
}

#define A(fields) "{\"a\":{" fields "}}"

static void
check_forged(void)
{
	static const struct { const char *header; size_t n; const char *word; } bad[] = {
		{ "", 0, "header" }, { "[]", 0, "object" }, { "{\"a\"", 0, "JSON" }, { "{} x", 0, "JSON" },
		{ "{\"a\":\"\xff\"}", 0, "JSON" }, { "{\"a\":1,\"a\":1}", 0, "duplicate" }, { "{\"a\":1}", 0, "'a'" },
		{ "{\"__metadata__\":[]}", 0, "__metadata__" },
		{ A("\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "F8_E4M3" },
		{ A("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "f32" },
		{ A("\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'a'" },
		{ A("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, "shape" },
		{ A("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4, "shape" },
		{ A("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "shape" },
		{ A("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, "shape" },
		{ A("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, "overflows" },
		{ A("\"dtype\":\"F32\",\"shape\":[1]"), 4, "data_offsets" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]"), 4, "data_offsets" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0.0,4]"), 4, "data_offsets" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, "data_offsets" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]"), 4, "data_offsets" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 3, "beyond" },
		{ A("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, "needs 8" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 5, "after" },
		{ A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]"), 5, "belong to no" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
		    "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]}}", 5, "overlap" },
	};
	static const unsigned char long_headers[][9] = { { 255, 255, 255, 255, 255, 255, 255, 127 },
	    { 248, 255, 255, 255, 255, 255, 255, 255, '{' }, { 2, 0, 0, 0, 0, 0, 0, 0, '{' } };
	struct safetensors *st;
	unsigned char *file;
	size_t i, size;

	for (i = 0; i < sizeof bad / sizeof *bad; i++) {
		file = make(bad[i].header, bad[i].n, &size);
		st = safetensors_parse(file, size, why);
		ok(!st && strstr(why, bad[i].word), "refused: %s", why);
		free(file);
	}
	for (i = 0; i < 3; i++)
		ok(!safetensors_parse(long_headers[i], 9, why), "refused: %s", why);
}

static char *
write_one(const char *name, const char *tensor, const float *x, size_t n)
{
	struct safetensor t = { .name = (char *)(uintptr_t)tensor, .type = DT_F32, .rank = 1, .shape = { n },
	    .bytes = n * sizeof *x };
	char *path = file_join(directory, name);
	struct safetensors_writer *w = safetensors_create(path, &t, 1, NULL);
	size_t i;

	for (i = 0; i < n; i++)
		safetensors_put(w, x + i, sizeof *x);
	safetensors_finish(w);
	return path;
}

static char *
write_text(const char *name, const char *text)
{
	char *path = file_join(directory, name);
	struct file *f = file_create(path);

	file_write(f, text, strlen(text));
	file_commit(f);
	return path;
}

static void
check_files(void)
{
	const float x[] = { 1, -2, 3 };
	char *path = write_one("model.safetensors", "w\"\n", x, 3);
	struct safetensors *st = safetensors_open_model(directory, why);
	const struct safetensor *t;

	ok(st && st->count == 1, "a file that was written is read");
	t = safetensors_find(st, "w\"\n");
	ok(t && t->bytes == sizeof x && !memcmp(t->data, x, sizeof x) && (uintptr_t)t->data % 64 == 0,
	    "its numbers are the same, and aligned");
	safetensors_close(st);
	unlink(path);
	ok(!safetensors_open(path, why) && strstr(why, path), "a file that is missing is named");
	free(path);
}

static void
check_shards(void)
{
	static const struct { const char *index, *word; } bad[] = {
		{ "{", "JSON" }, { "{}", "weight_map" },
		{ "{\"weight_map\":{\"c\":\"1.safetensors\"}}", "nowhere" },
		{ "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"../2.safetensors\"}}", "no file name" },
		{ "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"..\"}}", "no file name" },
		{ "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":3}}", "no file name" },
		{ "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}}", "3.safetensors' is missing" },
		{ "{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"2.safetensors\"}}", "'a' is not in" },
		{ "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}}", "'b' is not in" },
	};
	const float x[] = { 1, 2 };
	char *one = write_one("1.safetensors", "a", x, 1), *two = write_one("2.safetensors", "b", x, 2), *path;
	struct safetensors *st;
	size_t i;

	path = write_text("model.safetensors.index.json",
	    "{\"weight_map\":{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}}");
	st = safetensors_open_model(directory, why);
	ok(st && st->count == 2 && st->nmaps == 2 && safetensors_find(st, "a")->bytes == 4 &&
	    safetensors_find(st, "b")->bytes == 8, "shards are read as one file");
	safetensors_close(st);
	for (i = 0; i < sizeof bad / sizeof *bad; i++) {
		free(path);
		path = write_text("model.safetensors.index.json", bad[i].index);
		st = safetensors_open_model(directory, why);
		ok(!st && strstr(why, bad[i].word) && strstr(why, "index.json"), "refused: %s", why);
	}
	unlink(path);
	ok(!safetensors_open_model(directory, why) && strstr(why, "model.safetensors"), "no file at all: %s", why);
	unlink(one);
	unlink(two);
	free(one);
	free(two);
	free(path);
}

static void
check_names(void)
{
	size_t size;
	unsigned char *file = make("{\"h.0.w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, &size);
	struct safetensors *st = safetensors_parse(file, size, why);

	ok(safetensors_find_weight(st, "transformer.h.0.w") && safetensors_find_weight(st, "h.0.w") &&
	    !safetensors_find_weight(st, "lm_head.h.0.w"), "a base model's weights lack the first word");
	ok(!strcmp(safetensors_type(DT_BF16), "BF16"), "types have the format's names");
	safetensors_close(st);
	free(file);
}

/* A child reads a file's last byte after the file has lost it: its exit status, and what it said. */
static int
read_shrunk(const char *path, char said[256])
{
	struct map map;
	int fds[2], status;
	ssize_t n;

	fflush(stdout);
	if (pipe(fds))
		return -1;
	if (!fork()) {
		dup2(fds[1], STDERR_FILENO);
		map = file_map(path);
		_exit(truncate(path, 0) ? 9 : ((const volatile unsigned char *)map.data)[map.size - 1]);
	}
	n = wait(&status) > 0 ? read(fds[0], said, 255) : 0;
	said[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	close(fds[1]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
check_shrinking(void)
{
	char *path = file_join(directory, "shrinking"), said[256];
	struct file *f = file_create(path);

	file_write(f, "seven", 6);
	file_commit(f);
	ok(read_shrunk(path, said) == 1 &&
	    !strcmp(said, "pipestill: a mapped file became shorter while it was read\n"),
	    "a file that is cut short under a reader ends it with a message");
	unlink(path);
	free(path);
}

int
main(void)
{
	if (!mkdtemp(directory))
		die("cannot make '%s':", directory);
	check_good();
	check_forged();
	check_files();
	check_shards();
	check_names();
	check_shrinking();
	ok(!rmdir(directory), "nothing is left behind");
	return done();
}
