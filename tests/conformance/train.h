/* SPDX-License-Identifier: MIT */
/* train - what the kinds loss and train share: sequences, losses, teachers, gradients by name */
#ifndef TESTS_CONFORMANCE_TRAIN_H
#define TESTS_CONFORMANCE_TRAIN_H

#include "lib/train/head.h"
#include "tests/conformance/kit.h"

struct sequences {
	int count;
	int32_t **ids;
	int *n;
	int32_t (*supervised)[2];
	int *first;		/* [count + 1]: targets before the sequence */
};
struct sequences sequences_read(const json_t *list);
void sequences_free(struct sequences *s);

/* From loss, kd_ratio, temperature, alpha, beta; 0 when the loss is not the divergence kernel's. */
int divergence_read(struct divergence *d, const json_t *c);

/* A teacher of any form at every target of the sequences, in the order of the targets. */
struct stored_teacher {
	const struct backend *be;
	struct teacher_rows all;	/* of every target */
	int width;			/* columns of a dense one */
	const int *order;		/* [p] target that each supervised row of the batch is */
	struct teacher_rows chunk;	/* gathered */
	void *buffers[5];
};
struct stored_teacher teacher_read(struct verdict *v, const json_t *c, const struct kit *k, const struct sequences *s);
teacher_fn teacher_chunk;
void teacher_release(struct stored_teacher *t);

/*
 * Loss sums (cross-entropy, divergence) of the sequences `index` and their
 * gradient added to g, all divided by `targets`.
 */
struct sums { double ce, div; };
struct sums micro_batch(struct model *m, int columns, const struct sequences *s, const json_t *index,
    const struct divergence *d, struct stored_teacher *t, double targets, struct gradients *g);

/* Values of a parameter as the file stores it, from an array in the storage's order; to be freed. */
double *param_values(const struct model *m, const struct param *p, float *storage, size_t *n);
const struct param *param_find(const struct model *m, const char *name);
/* The array itself: weights of the model. */
float *param_storage(const struct model *m, const struct param *p);

/* As the kinds of rollouts expect them: norms, and probes or all; g is the gradient of the loss. */
void compare_gradients(struct verdict *v, const json_t *c, const struct model *m, const struct gradients *g,
    const struct safetensors *st);

#endif
