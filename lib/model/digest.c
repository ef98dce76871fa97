/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/model/layout.h"
#include "lib/model/safetensors.h"

/* Of a tensor larger than their product so much is hashed, evenly spread. */
enum { PIECE = 4096, PIECES = 16 };

static void
hash_tensor(XXH3_state_t *state, const struct safetensor *t)
{
	const char *data = t->data;
	size_t step;
	int i;

	XXH3_128bits_update(state, &t->type, sizeof t->type);
	XXH3_128bits_update(state, t->shape, (size_t)t->rank * sizeof *t->shape);
	if (t->bytes <= (size_t)PIECE * PIECES) {
		XXH3_128bits_update(state, data, t->bytes);
		return;
	}
	step = (t->bytes - PIECE) / (PIECES - 1);
	for (i = 0; i < PIECES; i++)
		XXH3_128bits_update(state, data + step * (size_t)i, PIECE);
}

static char *
finish(XXH3_state_t *state)
{
	XXH128_hash_t h = XXH3_128bits_digest(state);

	XXH3_freeState(state);
	return mem_format("%016" PRIx64 "%016" PRIx64, h.high64, h.low64);
}

static XXH3_state_t *
start(void)
{
	XXH3_state_t *state = XXH3_createState();

	if (!state)
		die("out of memory");
	XXH3_128bits_reset(state);
	return state;
}

static struct safetensors *
open_weights(const char *directory)
{
	char why[REASON_MAX];
	struct safetensors *st = safetensors_open_model(directory, why);

	if (!st)
		die("%s", why);
	return st;
}

char *
model_digest(const char *directory)
{
	XXH3_state_t *state = start();
	struct safetensors *st = open_weights(directory);
	char *path = file_join(directory, "config.json"), *text;
	size_t size;
	int i;

	if (!(text = file_read(path, &size)))
		die("cannot read '%s':", path);
	XXH3_128bits_update(state, text, size);
	for (i = 0; i < st->count; i++) {
		XXH3_128bits_update(state, st->tensors[i].name, strlen(st->tensors[i].name) + 1);
		hash_tensor(state, &st->tensors[i]);
	}
	safetensors_close(st);
	free(path);
	free(text);
	return finish(state);
}

char *
model_head_digest(const char *directory)
{
	XXH3_state_t *state = start();
	struct safetensors *st = open_weights(directory);
	char *path = file_join(directory, "config.json"), why[REASON_MAX];
	const struct safetensor *head;
	struct config c;

	if (config_read(&c, path, why))
		die("%s", why);
	if (!(head = safetensors_find_weight(st, layout_head_name(&c))))
		die("'%s': weight '%s' is missing", directory, layout_head_name(&c));
	hash_tensor(state, head);
	safetensors_close(st);
	config_free(&c);
	free(path);
	return finish(state);
}
