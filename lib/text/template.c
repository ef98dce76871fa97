/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/text/template.h"

struct name {
	char *name;
	char **fields;			/* the record's, in order of preference */
	size_t nfields, cap;
	char *otherwise;		/* when none of them has text; NULL: that is an error */
};

enum kind { LITERAL, FIELD, IF, END };

struct piece {
	enum kind kind;
	const char *s;			/* of LITERAL, in the template's text */
	size_t n;
	size_t name;			/* of the others, in names[] */
};

struct part {
	struct piece *pieces;
	size_t n, cap;
};

struct template {
	char *text;
	struct name *names;
	size_t nnames, cap;
	struct part prompt, target;
};

static void
free_name(struct name *name)
{
	size_t i;

	for (i = 0; i < name->nfields; i++)
		free(name->fields[i]);
	free(name->fields);
	free(name->name);
	free(name->otherwise);
}

void
template_close(struct template *t)
{
	size_t i;

	if (!t)
		return;
	for (i = 0; i < t->nnames; i++)
		free_name(&t->names[i]);
	free(t->names);
	free(t->prompt.pieces);
	free(t->target.pieces);
	free(t->text);
	free(t);
}

static size_t
word(const char *s, const char *end)
{
	const char *p = s;

	while (p < end && (*p == '_' || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')))
		p++;
	return (size_t)(p - s);
}

static const char *
blank(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
		p++;
	return p;
}

static char *
string(const char *s, size_t n)
{
	char *copy = mem_alloc(n + 1);

	memcpy(copy, s, n);
	copy[n] = '\0';
	return copy;
}

/* The name's place; one that no line explains is a field of its own. */
static size_t
find_name(struct template *t, const char *s, size_t n)
{
	struct name own = { .name = NULL };
	size_t i;

	for (i = 0; i < t->nnames; i++)
		if (strlen(t->names[i].name) == n && !memcmp(t->names[i].name, s, n))
			return i;
	own.name = string(s, n);
	MEM_PUSH(own.fields, own.nfields, own.cap, string(s, n));
	MEM_PUSH(t->names, t->nnames, t->cap, own);
	return i;
}

/* name = field, field, "otherwise" */
static int
parse_name(struct template *t, const char *p, const char *end, char *why)
{
	const char *line = p, *quote;
	struct name name = { .name = NULL };
	size_t n = word(p, end);

	name.name = string(p, n);
	p = blank(p + n, end);
	if (!n || p == end || *p++ != '=')
		goto bad;
	do {
		p = blank(p, end);
		if (p < end && *p == '"' && (quote = memchr(p + 1, '"', (size_t)(end - p - 1)))) {
			name.otherwise = string(p + 1, (size_t)(quote - p - 1));
			p = blank(quote + 1, end);
			break;
		}
		if (!(n = word(p, end)))
			goto bad;
		MEM_PUSH(name.fields, name.nfields, name.cap, string(p, n));
		p = blank(p + n, end);
	} while (p < end && *p++ == ',');
	if (blank(p, end) != end)
		goto bad;
	MEM_PUSH(t->names, t->nnames, t->cap, name);
	return 0;
bad:
	free_name(&name);
	return reason(why, "'%.*s' is not NAME = FIELD, ..., \"TEXT\"", (int)(end - line), line);
}

static int
parse_names(struct template *t, const char *p, const char *end, char *why)
{
	const char *stop, *start;

	for (; p < end; p = stop + 1) {
		stop = memchr(p, '\n', (size_t)(end - p));
		start = blank(p, stop);
		if (start < stop && *start != '#' && parse_name(t, start, stop, why))
			return -1;
	}
	return 0;
}

/* The brace at p: {name}, {?name} or {/name}; its bytes, 0 if it is only a brace. */
static size_t
brace(struct template *t, const char *p, const char *end, struct piece *piece)
{
	const char *s = p + 1;
	size_t n;

	piece->kind = FIELD;
	if (s < end && (*s == '?' || *s == '/'))
		piece->kind = *s++ == '?' ? IF : END;
	n = word(s, end);
	if (!n || s + n == end || s[n] != '}')
		return 0;
	piece->name = find_name(t, s, n);
	return (size_t)(s + n + 1 - p);
}

static int
parse_part(struct template *t, const char *p, const char *end, struct part *part, char *why)
{
	struct piece piece = { .name = 0 }, literal = { .kind = LITERAL };
	size_t open = 0, inside = 0, n;

	for (literal.s = p; p < end; p += n) {
		n = *p == '{' ? brace(t, p, end, &piece) : 0;
		if (!n) {
			n = 1;
			continue;
		}
		literal.n = (size_t)(p - literal.s);
		MEM_PUSH(part->pieces, part->n, part->cap, literal);
		MEM_PUSH(part->pieces, part->n, part->cap, piece);
		literal.s = p + n;
		if (piece.kind == IF && open++)
			return reason(why, "{?%s} stands inside of another", t->names[piece.name].name);
		if (piece.kind == IF)
			inside = piece.name;
		if (piece.kind == END && (!open-- || inside != piece.name))
			return reason(why, "{/%s} ends nothing", t->names[piece.name].name);
	}
	if (open)
		return reason(why, "{?%s} has no end", t->names[inside].name);
	literal.n = (size_t)(p - literal.s);
	MEM_PUSH(part->pieces, part->n, part->cap, literal);
	return 0;
}

/* The line of three dashes at or after p. */
static const char *
separator(const char *p, const char *end)
{
	while (p && end - p >= 4 && memcmp(p, "---\n", 4)) {
		p = memchr(p, '\n', (size_t)(end - p));
		p = p ? p + 1 : NULL;
	}
	return p && end - p >= 4 ? p : NULL;
}

struct template *
template_parse(const char *text, size_t n, char *why)
{
	struct template *t = mem_zero(1, sizeof *t);
	const char *end, *prompt, *target;

	t->text = string(text, n);
	end = t->text + n;
	prompt = separator(t->text, end);
	target = prompt ? separator(prompt + 4, end) : NULL;
	if (!target) {
		reason(why, "the template has not three parts between lines of ---");
		goto bad;
	}
	end -= end[-1] == '\n' && end > target + 4;
	if (!parse_names(t, t->text, prompt, why) && !parse_part(t, prompt + 4, target, &t->prompt, why) &&
	    !parse_part(t, target + 4, end, &t->target, why))
		return t;
bad:
	template_close(t);
	return NULL;
}

struct template *
template_open(const char *name, char *why)
{
	size_t length = strlen(name), n;
	int is_path = strchr(name, '/') || (length > 4 && !strcmp(name + length - 4, ".txt"));
	char *file = mem_format("templates/%s.txt", name), *path = is_path ? mem_string(name) : file_data(file);
	char *text = path ? file_read(path, &n) : NULL, inner[REASON_MAX];
	struct template *t = NULL;

	if (!path)
		reason(why, "there is no template '%s'", name);
	else if (!text)
		reason(why, "cannot read '%s': %s", path, strerror(errno));
	else if (!(t = template_parse(text, n, inner)))
		reason(why, "%s: %.400s", path, inner);
	free(text);
	free(path);
	free(file);
	return t;
}

/* What a name stands for in this record: the first field with text, or the first that is there. */
static int
look_up(const struct name *name, const json_t *record, const char **s, size_t *n, char *why)
{
	const json_t *value;
	size_t i;
	int there = 0;

	*s = name->otherwise ? name->otherwise : "";
	*n = strlen(*s);
	for (i = 0; i < name->nfields; i++) {
		value = json_object_get(record, name->fields[i]);
		if (!value || json_is_null(value))
			continue;
		if (!json_is_string(value))
			return reason(why, "field '%s' is not a string", name->fields[i]);
		there = 1;
		if (!json_string_length(value))
			continue;
		*s = json_string_value(value);
		*n = json_string_length(value);
		return 0;
	}
	if (!there && !name->otherwise)
		return reason(why, "there is no field '%s'", name->fields[0]);
	return 0;
}

static int
render_part(const struct template *t, const struct part *part, const json_t *record, struct text *out, char *why)
{
	const struct piece *p, *end = part->pieces + part->n;
	const char *s;
	size_t n;

	for (p = part->pieces; p < end; p++) {
		if (p->kind == LITERAL) {
			text_add(out, p->s, p->n);
			continue;
		}
		if (p->kind == END)
			continue;
		if (look_up(&t->names[p->name], record, &s, &n, why))
			return -1;
		if (p->kind == FIELD)
			text_add(out, s, n);
		else if (!n)
			while (p->kind != END)
				p++;
	}
	return 0;
}

int
template_render(const struct template *t, const json_t *record, struct text *prompt, struct text *target, char *why)
{
	return render_part(t, &t->prompt, record, prompt, why) ? -1 : render_part(t, &t->target, record, target, why);
}

int
template_uses(const struct template *t, const char *field)
{
	size_t i, k;

	for (i = 0; i < t->nnames; i++)
		for (k = 0; k < t->names[i].nfields; k++)
			if (!strcmp(t->names[i].fields[k], field))
				return 1;
	return 0;
}
