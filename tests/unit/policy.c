/* SPDX-License-Identifier: MIT */
/* policy - which versions are there, for how long, and what a follower makes of their absence */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/train/policy.h"
#include "tests/unit/tap.h"

static char directory[] = "/tmp/policy.XXXXXX";

static char *
in_directory(const char *name)
{
	return file_join(directory, name);
}

/* A model that was saved, and is read again: so it knows its directory. */
static struct model *
tiny(void)
{
	static const char text[] = "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_layer\": 1, \"n_head\": 2,"
	    "\"n_positions\": 8, \"vocab_size\": 11}";
	char why[REASON_MAX], *path = in_directory("start");
	json_t *json = json_loads(text, 0, NULL);
	struct config c;
	struct model *m;

	if (config_parse(&c, json, why))
		die("%s", why);
	json_decref(json);
	m = model_new(&c, &backend_ref, DT_F32);
	model_randomise(m, 5);
	model_save(m, path, NULL, DT_F32);
	model_free(m);
	m = model_load(path, &backend_ref, DT_NONE);
	free(path);
	return m;
}

/* The versions in RUN/policy, "0 3 4". */
static const char *
versions(const char *run)
{
	static char list[200];
	char name[300];
	int i;

	list[0] = '\0';
	for (i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "%s/policy/%d", run, i);
		if (file_exists(name))
			sprintf(list + strlen(list), "%s%d", *list ? " " : "", i);
	}
	return list;
}

/* What a child says on stderr while it dies of act(argument). */
static char *
last_words(void (*act)(const void *), const void *argument)
{
	char *path = in_directory("words"), *text;
	size_t size;
	int status;

	fflush(stdout);
	if (!fork()) {
		if (!freopen(path, "w", stderr))
			_exit(3);
		act(argument);
		_exit(0);
	}
	wait(&status);
	text = WIFEXITED(status) && WEXITSTATUS(status) == 1 ? file_read(path, &size) : mem_string("");
	free(path);
	return text;
}

static void
follow_briefly(const void *run)
{
	struct follower f;

	policy_follow(&f, run, 0.1);
}

static void
wait_for_7(const void *follower)
{
	free(policy_wait(follower, 7));
}

static void
wait_for_2(const void *follower)
{
	free(policy_wait(follower, 2));
}

static void
says(void (*act)(const void *), const void *argument, const char *words, const char *sentence)
{
	char *said = last_words(act, argument);

	ok(strstr(said, words) != NULL, "%s", sentence);
	free(said);
}

static void
wait_unread(const void *follower)
{
	int ends[2];

	if (pipe(ends) || dup2(ends[1], STDOUT_FILENO) < 0)
		_exit(3);
	close(ends[0]);
	close(ends[1]);
	wait_for_7(follower);
}

static void
first_run(const struct model *m, const char *run)
{
	struct policy p;
	struct follower f;
	char *path;
	long n;

	says(follow_briefly, run, "nobody trains in", "a run that nobody trains is not waited for for ever");
	policy_open(&p, run, NULL, m, 0, 9);
	policy_follow(&f, run, 0.1);
	ok(f.step == 0 && f.steps == 9 && f.type == DT_F32, "a follower knows where the run begins, ends, and its type");
	path = policy_wait(&f, 0);
	model_free(model_load(path, &backend_ref, DT_NONE));
	free(path);
	ok(1, "version 0 is there, and is a model");
	policy_prune(&p, 0);
	for (n = 1; n <= 3; n++)
		policy_publish(&p, m, n);
	policy_prune(&p, 2);
	ok(!strcmp(versions(run), "0 2 3"), "what no batch will use is removed: %s", versions(run));
	policy_saved(&p, 3);
	policy_publish(&p, m, 4);
	policy_publish(&p, m, 5);
	policy_publish(&p, m, 6);
	policy_prune(&p, 5);
	ok(!strcmp(versions(run), "0 2 3 5 6"), "what the saved state needs stays: %s", versions(run));
	path = policy_wait(&f, 6);
	model_free(model_load(path, &backend_ref, DT_NONE));
	free(path);
	says(wait_unread, &f, "nobody reads <stdout>", "whoever waits notices that his reader has gone");
	policy_close(&p);
	says(wait_for_7, &f, "ended before version 7", "whoever waits notices that the trainer has gone");
	policy_unfollow(&f);
	says(follow_briefly, run, "nobody trains in", "a run whose trainer is dead is not followed");
}

static void
second_run(const struct model *m, const char *run)
{
	char *part = file_join(run, "policy/7.part");
	struct policy p;
	struct follower f;

	file_make_directories(part);
	policy_open(&p, run, NULL, m, 3, 9);
	ok(!strcmp(versions(run), "0 2 3") && !file_exists(part), "what will be done again is removed: %s",
	    versions(run));
	policy_follow(&f, run, 0.1);
	ok(f.step == 3, "a follower begins where the trainer goes on");
	policy_prune(&p, 3);
	ok(!strcmp(versions(run), "0 2 3"), "the state that the run went on from keeps what it had: %s", versions(run));
	policy_saved(&p, 4);
	policy_prune(&p, 3);
	ok(!strcmp(versions(run), "0 3"), "until the next one is saved: %s", versions(run));
	says(wait_for_2, &f, "has lost version 2", "a version that will not come again is not waited for");
	policy_unfollow(&f);
	policy_close(&p);
	free(part);
}

static void
elsewhere(const struct model *m)
{
	char *run = in_directory("other"), *place = in_directory("place"), *there = in_directory("place/1");
	struct policy p;

	file_make_directories(run);
	policy_open(&p, run, place, m, 0, 1);
	policy_publish(&p, m, 1);
	ok(file_exists(there) && !strcmp(versions(run), "0 1"), "versions can lie elsewhere");
	policy_close(&p);
	policy_open(&p, run, place, m, 1, 1);
	ok(!strcmp(versions(run), "0 1"), "and a run finds them there again");
	policy_close(&p);
	free(run);
	free(place);
	free(there);
}

int
main(void)
{
	struct model *m;
	char *run;

	progname = "policy";
	if (!mkdtemp(directory))
		die("cannot make '%s':", directory);
	m = tiny();
	run = in_directory("run");
	file_make_directories(run);
	first_run(m, run);
	second_run(m, run);
	elsewhere(m);
	model_free(m);
	free(run);
	file_remove(directory);
	return done();
}
