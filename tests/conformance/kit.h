/* SPDX-License-Identifier: MIT */
/*
 * kit - a conformance kit: cases in a manifest, each a JSON file with its expectations
 *
 * Nothing about a case is compiled in. A kind is one function; it reads the
 * case, runs the library, and reports into a verdict.
 */
#ifndef TESTS_CONFORMANCE_KIT_H
#define TESTS_CONFORMANCE_KIT_H

#include <jansson.h>

#include "lib/model/model.h"
#include "lib/model/safetensors.h"

struct kit {
	const char *directory;
	const struct backend *be;	/* the row under test */
};

/* What became of a case: the worst comparison, or the first failure. */
struct verdict {
	int compared;		/* comparisons made; none is a failure */
	double error, allowed;	/* of the comparison with the largest error / allowed */
	char failure[400];	/* empty: passed */
	char skipped[200];	/* empty: ran */
};

typedef void kind_fn(struct verdict *v, const json_t *c, const struct kit *k);

kind_fn kind_tokenize, kind_decode, kind_train_bpe, kind_chat, kind_template;
kind_fn kind_rouge, kind_rouge_aggregate, kind_exact_match, kind_stem;
kind_fn kind_forward, kind_generate, kind_seq_logprob, kind_refuse;
kind_fn kind_loss, kind_train, kind_sampling, kind_philox, kind_reward;
kind_fn kind_minillm, kind_minillm_logits, kind_minillm_mix;
kind_fn kind_grpo, kind_pack, kind_gptq;
void all_gptq(struct verdict *v);	/* what must hold of all cases together */
kind_fn kind_dequant, kind_gguf;

void fail(struct verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Count a comparison that must hold exactly. */
void expect(struct verdict *v, int holds, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* |got - want| <= allowed for all n, and finite. */
void expect_near(struct verdict *v, const char *what, const double *got, const double *want, size_t n,
    double allowed);
/* A scalar against {"value", "tol"}; scale 0: its own magnitude. */
void expect_value(struct verdict *v, const char *what, double got, const json_t *expected, double scale);

char *kit_path(const struct kit *k, const char *relative);	/* to be freed */
json_t *kit_json(const struct kit *k, const char *relative);
/* The next object of a .jsonl of samples, or NULL; `at` is the kit's own cursor, NULL at first. */
json_t *kit_sample(const char **at);
char *kit_text(const struct kit *k, const char *relative);	/* a whole file, NUL-terminated */

const char *get_string(const json_t *c, const char *key);	/* "" when absent */
double get_number(const json_t *c, const char *key, double otherwise);
/* Options of a draw; top_p 0, which leaves the likeliest token alone, is the least there is: the kernels' 0 is off. */
struct sampling get_sampling(const json_t *options);
int32_t *get_ids(const json_t *list, int *n);			/* to be freed */

/* Load what models the case names: it is skipped where one is absent and fails where one cannot be read. */
void kit_models(struct verdict *v, const json_t *c, const struct kit *k);
/* A model of the kit on the row under test, in f32; the last few are kept. */
struct model *kit_model(const struct kit *k, const char *relative);
/* Its logits of a sequence, [n, vocab]; to be freed. */
double *kit_logits(struct model *m, const int32_t *ids, int n);
/* A float tensor widened to double, or NULL and a failure; to be freed. */
double *kit_tensor(struct verdict *v, const struct safetensors *st, const char *name, size_t *n);
struct safetensors *kit_tensors(struct verdict *v, const struct kit *k, const char *relative);

#endif
