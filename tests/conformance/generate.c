/* SPDX-License-Identifier: MIT */
/* generate, refuse: what a session draws, and what a tool says of a model that it must not read */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/model/session.h"
#include "lib/stream/stream.h"
#include "tests/conformance/kit.h"

static void
compare_reply(struct verdict *v, size_t index, const json_t *sample, const struct reply *r)
{
	const char *finish = get_string(sample, "finish");
	int n, i;
	int32_t *want = get_ids(json_object_get(sample, "ids"), &n);

	expect(v, r->n == n, "reply %zu has %d ids, not %d", index, r->n, n);
	for (i = 0; i < n && i < r->n; i++)
		expect(v, r->ids[i] == want[i], "reply %zu: id %d is %d, not %d", index, i, r->ids[i], want[i]);
	expect(v, r->stopped == !strcmp(finish, "stop"), "reply %zu does not finish by %s", index, finish);
	free(want);
}

void
kind_generate(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *samples = json_object_get(c, "samples"), *logp = json_object_get(json_object_get(c, "expect"), "logp");
	const struct sampling greedy = { .greedy = 1, .temperature = 1, .top_p = 1 };
	size_t count = json_array_size(samples), i, n, at = 0;
	struct request *requests = mem_zero(count, sizeof *requests);
	struct reply *replies = mem_zero(count, sizeof *replies);
	struct safetensors *st;
	struct session *session;
	double *want, got;
	json_t *sample;
	int j;

	session = session_new(kit_model(k, get_string(c, "model")), 3, 64, &greedy);
	json_array_foreach(samples, i, sample) {
		struct request *r = &requests[i];

		r->prompt = get_ids(json_object_get(sample, "prompt"), &r->n);
		r->eos = get_ids(json_object_get(sample, "eos"), &r->neos);
		r->max_tokens = (int)get_number(sample, "max_new_tokens", 0);
		r->key = i;
		r->replies = &replies[i];
		r->nreplies = r->unfinished = 1;
		session_add(session, r);
	}
	while (session_step(session))
		;
	st = kit_tensors(v, k, get_string(c, "tensors"));
	want = kit_tensor(v, st, get_string(logp, "tensor"), &n);
	json_array_foreach(samples, i, sample) {
		compare_reply(v, i, sample, &replies[i]);
		for (j = 0; j < replies[i].n && at < n; j++, at++) {
			got = replies[i].model_logp[j];
			expect_near(v, "logp", &got, &want[at], 1, get_number(logp, "tol", 0) * get_number(logp, "scale", 0));
		}
		free((void *)requests[i].prompt);
		free((void *)requests[i].eos);
		reply_free(&replies[i]);
	}
	expect(v, at == n, "%zu log-probabilities, not %zu", at, n);
	session_free(session);
	free(requests);
	free(replies);
	free(want);
	safetensors_close(st);
}

/* A stream of one record, everything after its first id supervised; its path, to be removed and freed. */
static char *
write_tokens(const json_t *list)
{
	struct common common = { .argc = 0 };
	char *path = mem_format("/tmp/conformance.%ld.tokens.zst", (long)getpid());
	json_t *header = header_new("tokens", NULL, &common);
	struct stream_out *out;
	struct record r = { .text = json_pack("{s:s}", "id", "1") };
	uint64_t two = 2, shape_ids[1], shape_span[2] = { 1, 2 };
	int n;
	int32_t *ids = get_ids(list, &n), span[2] = { 1, n };

	header_field(header, "ids", DT_I32, 0, NULL);
	header_field(header, "supervised", DT_I32, 1, &two);
	out = stream_create(path, header);
	shape_ids[0] = (uint64_t)n;
	record_add(&r, "ids", DT_I32, 1, shape_ids, ids);
	record_add(&r, "supervised", DT_I32, 2, shape_span, span);
	stream_put(out, &r);
	stream_finish(out);
	json_decref(r.text);
	json_decref(header);
	free(ids);
	return path;
}

struct outcome {
	int status;		/* as wait() says */
	long kilobytes;
	double seconds;
	char out[4096], err[4096];
};

static void
slurp(char *text, size_t size, FILE *f)
{
	size_t n;

	rewind(f);
	n = fread(text, 1, size - 1, f);
	text[n] = 0;
	fclose(f);
}

static struct outcome
run_perplexity(const char *model, const char *tokens)
{
	struct outcome o = { .status = 0 };
	FILE *out = tmpfile(), *err = tmpfile();
	struct timespec start, end;
	struct rusage usage;
	pid_t child;

	if (!out || !err)
		die("cannot make a temporary file:");
	clock_gettime(CLOCK_MONOTONIC, &start);
	child = fork();
	if (!child) {
		dup2(fileno(out), 1);
		dup2(fileno(err), 2);
		execlp("perplexity", "perplexity", "-q", "--dtype", "f32", "-m", model, tokens, (char *)NULL);
		_exit(127);
	}
	if (child < 0 || wait4(child, &o.status, 0, &usage) < 0)
		die("cannot run perplexity:");
	clock_gettime(CLOCK_MONOTONIC, &end);
	o.kilobytes = usage.ru_maxrss;
	o.seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
	slurp(o.out, sizeof o.out, out);
	slurp(o.err, sizeof o.err, err);
	return o;
}

static int
says_any(const char *text, const json_t *messages)
{
	size_t i;
	json_t *message;

	json_array_foreach(messages, i, message)
		if (strstr(text, json_string_value(message)))
			return 1;
	return 0;
}

static void
expect_nll(struct verdict *v, const struct outcome *o, const json_t *value)
{
	json_t *summary = json_loads(o->out, 0, NULL);

	expect(v, summary != NULL, "perplexity exits %d and says: %.200s", WEXITSTATUS(o->status), o->err);
	if (summary)
		expect_value(v, "mean_nll", get_number(summary, "mean_nll", -1), value, 0);
	json_decref(summary);
}

void
kind_refuse(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *expected = json_object_get(c, "expect"), *instead = json_object_get(expected, "or_mean_nll");
	char *model = kit_path(k, get_string(c, "model")), *tokens = write_tokens(json_object_get(c, "ids"));
	struct outcome o = run_perplexity(model, tokens);
	char *newline = strchr(o.err, '\n');

	expect(v, WIFEXITED(o.status), "ended by signal %d", WTERMSIG(o.status));
	expect(v, WEXITSTATUS(o.status) != 127, "the tool perplexity is not on the PATH");
	expect(v, o.kilobytes < 1 << 20, "takes %ld MB", o.kilobytes >> 10);
	expect(v, o.seconds < 10, "takes %.1f s", o.seconds);
	if (!json_is_true(json_object_get(expected, "refused"))) {
		expect_nll(v, &o, json_object_get(expected, "mean_nll"));
	} else if (instead && !WEXITSTATUS(o.status)) {
		expect_nll(v, &o, instead);
	} else {
		expect(v, WEXITSTATUS(o.status) == 1, "exits %d", WEXITSTATUS(o.status));
		expect(v, !*o.out, "writes to stdout: %.100s", o.out);
		expect(v, newline && !newline[1], "does not say one line: %.200s", o.err);
		expect(v, says_any(o.err, json_object_get(expected, "message_any")), "says: %.200s", o.err);
	}
	unlink(tokens);
	free(tokens);
	free(model);
}
