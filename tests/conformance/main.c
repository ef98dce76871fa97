/* SPDX-License-Identifier: MIT */
/*
 * conformance KIT [KIND[/NAME]] - hold the library to a kit of reference values
 *
 * One line a case, at the end `N passed, N failed, N skipped`. Numerical kinds
 * run on every row of kernels that the machine has; all kinds with 1 and 2 threads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/threads.h"
#include "tests/conformance/kit.h"

static const struct kind {
	const char *name;
	kind_fn *check;		/* NULL: the project does not have it yet */
	int rows;		/* depends on the row of kernels */
} kinds[] = {
	{ "tokenize", kind_tokenize, 0 },
	{ "decode", kind_decode, 0 },
	{ "train_bpe", kind_train_bpe, 0 },
	{ "chat", kind_chat, 0 },
	{ "template", kind_template, 0 },
	{ "rouge", kind_rouge, 0 },
	{ "rouge_aggregate", kind_rouge_aggregate, 0 },
	{ "exact_match", kind_exact_match, 0 },
	{ "stem", kind_stem, 0 },
	{ "forward", kind_forward, 1 },
	{ "loss", kind_loss, 1 },
	{ "train", kind_train, 1 },
	{ "refuse", kind_refuse, 0 },
	{ "generate", kind_generate, 1 },
	{ "sampling", kind_sampling, 1 },
	{ "philox", kind_philox, 0 },
	{ "seq_logprob", kind_seq_logprob, 1 },
	{ "reward", kind_reward, 0 },
	{ "grpo", kind_grpo, 1 },
	{ "minillm", kind_minillm, 1 },
	{ "minillm_logits", kind_minillm_logits, 1 },
	{ "minillm_mix", kind_minillm_mix, 1 },
	{ "on_policy_distillation", kind_minillm, 1 },
	{ "pack", kind_pack, 0 },
	{ "dequant", kind_dequant, 1 },
	{ "gptq", kind_gptq, 1 },
	{ "gguf", kind_gguf, 0 },
	{ NULL, NULL, 0 }
};

static const struct kind *
find_kind(const char *name)
{
	const struct kind *kind;

	for (kind = kinds; kind->name; kind++)
		if (!strcmp(kind->name, name))
			return kind;
	return NULL;
}

/* Run a case on one row with 1 and 2 threads; the first failure names both. */
static void
run_threads(struct verdict *v, const struct kind *kind, const json_t *c, const struct kit *k)
{
	char failure[sizeof v->failure];
	int threads;

	for (threads = 1; threads <= 2 && !v->failure[0] && !v->skipped[0]; threads++) {
		threads_use(threads);
		if (kind->rows)
			kit_models(v, c, k);
		if (!v->failure[0] && !v->skipped[0])
			kind->check(v, c, k);
		if (!v->failure[0] && !v->skipped[0] && !v->compared)
			fail(v, "nothing was compared");
		if (v->failure[0]) {
			memcpy(failure, v->failure, sizeof failure);
			snprintf(v->failure, sizeof v->failure, "%s%s%d thread%s: %.300s", kind->rows ? k->be->name : "",
			    kind->rows ? ", " : "", threads, threads == 1 ? "" : "s", failure);
		}
	}
}

static void
run_case(struct verdict *v, const struct kind *kind, const json_t *c, struct kit *k)
{
	int i;

	for (i = 0; backends[i] && !v->failure[0] && !v->skipped[0]; i++) {
		if (!backends[i]->usable())
			continue;
		k->be = backends[i];
		run_threads(v, kind, c, k);
		if (!kind->rows)
			break;
	}
}

static int
has_file(const struct kit *k, const char *relative)
{
	char *path = kit_path(k, relative);
	int has = file_exists(path);

	free(path);
	return has;
}

struct count { int passed, failed, skipped; };

static void
report(const char *label, const struct verdict *v, struct count *count)
{
	if (v->skipped[0]) {
		printf("skip %s: %s\n", label, v->skipped);
		count->skipped++;
	} else if (v->failure[0]) {
		printf("not ok %s: %s\n", label, v->failure);
		count->failed++;
	} else {
		if (v->allowed > 0)
			printf("ok %s max error %.1e of %.1e allowed\n", label, v->error, v->allowed);
		else
			printf("ok %s %d equal\n", label, v->compared);
		count->passed++;
	}
}

int
main(int argc, char **argv)
{
	struct kit k = { .directory = argc > 1 ? argv[1] : getenv("KIT") };
	const char *only = argc > 2 ? argv[2] : "";
	struct count count = { 0, 0, 0 };
	struct verdict together = { .compared = 0 };
	json_t *manifest, *entry;
	size_t i;

	progname = "conformance";
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!k.directory)
		die("no kit is named, by an operand or by KIT");
	if (!has_file(&k, "manifest.json")) {
		printf("skip conformance: no kit at %s\n", k.directory);
		return 0;
	}
	manifest = kit_json(&k, "manifest.json");
	json_array_foreach(json_object_get(manifest, "cases"), i, entry) {
		const char *name = get_string(entry, "name");
		const struct kind *kind = find_kind(get_string(entry, "kind"));
		struct verdict v = { .compared = 0 };
		char label[300];
		json_t *c;

		snprintf(label, sizeof label, "%s/%s", get_string(entry, "kind"), name);
		if (strncmp(label, only, strlen(only)))
			continue;
		if (!kind) {
			printf("not ok %s: a kind that this program does not know\n", label);
			count.failed++;
			continue;
		}
		if (!kind->check) {
			printf("skip %s: the project has no %s yet\n", label, kind->name);
			count.skipped++;
			continue;
		}
		if (has_file(&k, get_string(entry, "file"))) {
			c = kit_json(&k, get_string(entry, "file"));
			run_case(&v, kind, c, &k);
			json_decref(c);
		} else {
			fail(&v, "the kit has no file '%.200s'", get_string(entry, "file"));
		}
		report(label, &v, &count);
	}
	all_gptq(&together);
	if (together.compared)
		report("gptq, all cases together", &together, &count);
	json_decref(manifest);
	printf("%d passed, %d failed, %d skipped\n", count.passed, count.failed, count.skipped);
	return count.failed != 0 || count.passed + count.skipped == 0;
}
