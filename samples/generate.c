/* SPDX-License-Identifier: MIT */
/*
 * generate - questions and answers from a grammar
 *
 *	generate GRAMMAR TRAIN DEV
 *
 * Reads samples/LANGUAGE.grammar, as samples/README.md describes it, and writes
 * two files of JSON lines. Every question stands once, in one of the two. Of a
 * task that goes through a set, each subject keeps at least one of its
 * questions in the first. The same grammar gives the same bytes.
 */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "samples/output.h"

enum { FIELDS = 8, VARIABLES = 8, DEV_PERCENT = 7, ATTEMPTS = 20 };

struct entry {
	char *fields[FIELDS];
};

struct set {
	char *name;
	struct entry *entries;
	size_t n, capacity;
};

struct list {
	char **lines;
	size_t n, capacity;
};

struct variable {
	char name;
	size_t set;			/* number of it, or */
	char *computed;			/* "sum a b" */
};

struct say {
	long weight;
	char *text;
};

struct task {
	char *category;
	size_t count;			/* 0: everything */
	struct variable variables[VARIABLES];
	size_t n;
	struct list asks, contexts, wheres;
	struct say *says;
	size_t nsays, says_capacity;
};

static struct set *sets;
static size_t nsets, sets_capacity;
static struct task *tasks;
static size_t ntasks, tasks_capacity;
static struct entry values[128];	/* of variables, by their letter */
static json_t *asked;			/* the prompts so far */
static struct output train, dev;

static char *
trim(char *s)
{
	char *end;

	while (isspace((unsigned char)*s))
		s++;
	for (end = s + strlen(s); end > s && isspace((unsigned char)end[-1]); )
		*--end = '\0';
	return s;
}

static void
list_add(struct list *list, const char *line)
{
	MEM_PUSH(list->lines, list->n, list->capacity, mem_string(line));
}

static void
add_entry(struct set *set, char *text)
{
	struct entry e = { { NULL } };
	char *field;
	size_t i;

	for (i = 0; (field = strsep(&text, "/")); i++) {
		if (i == FIELDS)
			die("set '%s' has an entry of more than %d fields", set->name, FIELDS);
		e.fields[i] = mem_string(trim(field));
	}
	MEM_PUSH(set->entries, set->n, set->capacity, e);
}

static void
add_entries(struct set *set, char *line)
{
	struct entry number = { { NULL } };
	int first, last;
	char *text;

	if (sscanf(line, "%d .. %d", &first, &last) != 2) {
		while ((text = strsep(&line, "|")))
			add_entry(set, text);
		return;
	}
	for (; first <= last; first++) {
		number.fields[0] = mem_format("%d", first);
		MEM_PUSH(set->entries, set->n, set->capacity, number);
	}
}

static size_t
find_set(const char *name)
{
	size_t i;

	for (i = 0; i < nsets; i++)
		if (!strcmp(sets[i].name, name))
			return i;
	die("there is no set '%s'", name);
}

static void
add_variable(struct task *task, char *line)
{
	struct variable *v = &task->variables[task->n++];

	if (task->n > VARIABLES || !islower((unsigned char)line[0]) || line[1] != ' ')
		die("'%s' is no variable, or one too many", line);
	v->name = line[0];
	if (strchr(line + 2, ' '))
		v->computed = mem_string(line + 2);
	else
		v->set = find_set(line + 2);
}

static void
add_to_task(struct task *task, char *line)
{
	char *word = strsep(&line, " ");
	struct say say;

	if (!line)
		die("'%s' needs more", word);
	if (!strcmp(word, "for") || !strcmp(word, "let"))
		add_variable(task, line);
	else if (!strcmp(word, "ask"))
		list_add(&task->asks, line);
	else if (!strcmp(word, "context"))
		list_add(&task->contexts, line);
	else if (!strcmp(word, "where"))
		list_add(&task->wheres, line);
	else if (!strcmp(word, "say")) {
		say.weight = strtol(line, &line, 10);
		say.text = mem_string(trim(line));
		MEM_PUSH(task->says, task->nsays, task->says_capacity, say);
	} else
		die("nobody knows what '%s' is", word);
}

static void
read_grammar(const char *path)
{
	FILE *f = fopen(path, "r");
	char *buffer = NULL, *line, *word;
	size_t capacity = 0;
	struct set set = { 0 };
	struct task task = { 0 };
	int in_set = 0;

	if (!f)
		die("cannot open '%s':", path);
	while (getline(&buffer, &capacity, f) > 0) {
		line = trim(buffer);
		if (!*line || *line == '#')
			continue;
		if (line > buffer) {
			if (in_set)
				add_entries(&sets[nsets - 1], line);
			else
				add_to_task(&tasks[ntasks - 1], line);
			continue;
		}
		word = strsep(&line, " ");
		in_set = !strcmp(word, "set");
		if (in_set) {
			set.name = mem_string(line);
			MEM_PUSH(sets, nsets, sets_capacity, set);
		} else {
			task.category = mem_string(strsep(&line, " "));
			task.count = strtoul(line, NULL, 10);
			MEM_PUSH(tasks, ntasks, tasks_capacity, task);
		}
	}
	free(buffer);
	fclose(f);
}

/* What "a" or "a2" stands for: a field of a variable, the first without a number. */
static const char *
field(const char *reference)
{
	const struct entry *e = &values[reference[0] & 127];
	int i = isdigit((unsigned char)reference[1]) ? reference[1] - '1' : 0;
	const char *value = i >= 0 && i < FIELDS ? e->fields[i] : NULL;

	if (!value)
		die("'%s' has no value", reference);
	return value;
}

static char *
fill(const char *template)
{
	char *text;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	const char *p, *value;
	int capital;

	for (p = template; *p; p++) {
		if (*p != '$') {
			fputc(*p, f);
			continue;
		}
		capital = *++p == '^';
		p += capital;
		value = field(p);
		fputc(capital ? toupper((unsigned char)*value) : *value, f);
		fputs(value + 1, f);
		p += isdigit((unsigned char)p[1]) != 0;
	}
	fclose(f);
	return text;
}

static int
ascending(const void *a, const void *b)
{
	const long *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static struct entry
compute(const char *expression)
{
	char *copy = mem_string(expression), *rest = copy, *function = strsep(&rest, " "), *word;
	const char *references[FIELDS];
	struct entry e = { { NULL } };
	long x[FIELDS];
	size_t n = 0, i;

	while ((word = strsep(&rest, " ")) && n < FIELDS) {
		references[n] = field(word);
		x[n] = strtol(references[n], NULL, 10);
		n++;
	}
	if (n < 2)
		die("'%s' needs two variables", expression);
	if (!strcmp(function, "sum"))
		e.fields[0] = mem_format("%ld", x[0] + x[1]);
	else if (!strcmp(function, "product"))
		e.fields[0] = mem_format("%ld", x[0] * x[1]);
	else if (!strcmp(function, "same"))
		e.fields[0] = mem_string(strcmp(references[0], references[1]) ? "no" : "yes");
	else if (!strcmp(function, "sort")) {
		qsort(x, n, sizeof *x, ascending);
		for (i = 0; i < n; i++)
			e.fields[i] = mem_format("%ld", x[i]);
	} else
		die("nobody knows what '%s' is", function);
	free(copy);
	return e;
}

static int
holds(const struct task *task)
{
	size_t i;

	for (i = 0; i < task->wheres.n; i++)
		if (strcmp(field(task->wheres.lines[i]), task->wheres.lines[i] + 2))
			return 0;
	return 1;
}

static const char *
any_say(const struct task *task)
{
	long total = 0, at;
	size_t i;

	for (i = 0; i < task->nsays; i++)
		total += task->says[i].weight;
	at = (long)draw((size_t)total);
	for (i = 0; at >= task->says[i].weight; i++)
		at -= task->says[i].weight;
	return task->says[i].text;
}

/* One example in one of the outputs; 0 if it was there already. */
static int
put(const struct task *task, const char *ask, int may_be_dev)
{
	char *question = fill(ask), *response = fill(any_say(task)), *context, *prompt;
	json_t *example;
	int is_new;

	context = task->contexts.n ? fill(task->contexts.lines[draw(task->contexts.n)]) : mem_string("");
	prompt = mem_format("%s\n%s", question, context);
	is_new = !json_object_get(asked, prompt);
	if (is_new) {
		json_object_set_new(asked, prompt, json_true());
		example = json_pack("{s:s, s:s, s:s, s:s}", "instruction", question,
		    "context", context, "response", response, "category", task->category);
		output_add(draw(100) < DEV_PERCENT && may_be_dev ? &dev : &train, example);
	}
	free(question);
	free(response);
	free(context);
	free(prompt);
	return is_new;
}

/* Two variables of one set never have the same value. */
static int
taken(const struct task *task, size_t v, const struct entry *e)
{
	size_t i;

	for (i = 0; i < v; i++)
		if (!task->variables[i].computed && values[(int)task->variables[i].name].fields[0] == e->fields[0])
			return 1;
	return 0;
}

static void
go_through(const struct task *task, size_t subject)
{
	size_t i;

	for (i = 0; i < task->asks.n; i++)
		put(task, task->asks.lines[i], (subject + i) % task->asks.n != 0);
}

static void
forget(const struct task *task)
{
	size_t i, j;

	for (i = 0; i < task->n; i++)
		for (j = 0; j < FIELDS && task->variables[i].computed; j++)
			free(values[(int)task->variables[i].name].fields[j]);
}

static int
draw_one(const struct task *task)
{
	const struct variable *v;
	const struct entry *e;
	size_t i;
	int is_new;

	for (i = 0; i < task->n; i++) {
		v = &task->variables[i];
		if (v->computed) {
			values[(int)v->name] = compute(v->computed);
			continue;
		}
		do
			e = &sets[v->set].entries[draw(sets[v->set].n)];
		while (taken(task, i, e));
		values[(int)v->name] = *e;
	}
	is_new = holds(task) && put(task, task->asks.lines[draw(task->asks.n)], 1);
	forget(task);
	return is_new;
}

static void
expand(const struct task *task)
{
	const struct variable *v = &task->variables[0];
	size_t i, n;

	if (!task->n || !task->asks.n || !task->nsays)
		die("a task of '%s' lacks a variable, a question or an answer", task->category);
	for (i = 0; !task->count && i < sets[v->set].n; i++) {
		values[(int)v->name] = sets[v->set].entries[i];
		go_through(task, i);
	}
	for (i = n = 0; n < task->count && i < ATTEMPTS * task->count; i++)
		n += (size_t)draw_one(task);
}

int
main(int argc, char **argv)
{
	size_t i;

	progname = "generate";
	if (argc != 4)
		die_usage("it takes a grammar and two files to write");
	read_grammar(argv[1]);
	asked = json_object();
	for (i = 0; i < ntasks; i++)
		expand(&tasks[i]);
	output_write(&train, argv[2]);
	output_write(&dev, argv[3]);
	json_decref(asked);
	return 0;
}
