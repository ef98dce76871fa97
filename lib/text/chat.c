/* SPDX-License-Identifier: MIT */
/*
 * What stands in the template as text (the default system message, how tools
 * are announced) is taken from there; that the rest is one of the two programs
 * known here is proved by its digest.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/text/chat.h"
#include "lib/text/reader.h"

enum program { QWEN2, QWEN25 };

/* XXH3-128 of the templates without their default system message. */
static const struct known {
	XXH64_hash_t high, low;
	enum program program;
} known[] = {
	{ 0x214702a813e0fbed, 0x0d6850922b3e41b2, QWEN2 },
	{ 0x1ba0b225084ea3c1, 0xf986bc38b54b9a0d, QWEN25 }
};

struct chat {
	enum program program;
	struct text system;		/* said when the first message is no system message */
	struct text before, after;	/* the list of tools */
};

void
chat_close(struct chat *c)
{
	if (!c)
		return;
	free(c->system.s);
	free(c->before.s);
	free(c->after.s);
	free(c);
}

/* The default system message in the template: what follows this opening, when it is no quote. */
static const char *
find_system(const char *template, size_t *n)
{
	static const char opening[] = "<|im_start|>system", closing[] = "<|im_end|>";
	const char *p, *s, *end;

	for (p = template; (p = strstr(p, opening)); ) {
		p += sizeof opening - 1;
		s = p + (*p == '\n' ? 1 : !strncmp(p, "\\n", 2) ? 2 : 0);
		if (s == p || *s == '\'' || !(end = strstr(s, closing)))
			continue;
		*n = (size_t)(end - s);
		return memchr(s, '\'', *n) || !*n ? NULL : s;
	}
	return NULL;
}

static XXH128_hash_t
digest_without(const char *template, const char *system, size_t n)
{
	struct text rest = { NULL, 0, 0 };
	XXH128_hash_t h;

	for (; *template; template += strncmp(template, system, n) ? 1 : n)
		if (strncmp(template, system, n))
			text_add(&rest, template, 1);
	h = XXH3_128bits(rest.s, rest.n);
	free(rest.s);
	return h;
}

static void
unescape(struct text *out, const char *s, size_t n)
{
	const char *end = s + n;

	for (; s < end; s++) {
		if (*s != '\\' || s + 1 == end)
			text_add(out, s, 1);
		else
			text_add(out, *++s == 'n' ? "\n" : s, 1);
	}
}

/* The string literal of the template that starts so; its quote is the first byte of `start`. */
static void
take_literal(struct text *out, const char *template, const char *start)
{
	const char *s = strstr(template, start), *end;

	if (!s++)
		return;
	for (end = s; *end && *end != *start; end++)
		end += *end == '\\' && end[1];
	unescape(out, s, (size_t)(end - s));
}

struct chat *
chat_parse(const char *chat_template, size_t n, char *why)
{
	struct chat *c = mem_zero(1, sizeof *c);
	char *template = mem_alloc(n + 1);
	const char *system;
	XXH128_hash_t h = { 0, 0 };
	size_t length, i;

	memcpy(template, chat_template, n);
	template[n] = '\0';
	if ((system = find_system(template, &length))) {
		unescape(&c->system, system, length);
		h = digest_without(template, system, length);
	}
	for (i = 0; i < sizeof known / sizeof *known; i++)
		if (known[i].high == h.high64 && known[i].low == h.low64 && strlen(template) == n)
			break;
	if (i == sizeof known / sizeof *known) {
		reason(why, "the chat_template is not one of those known here (Qwen2, Qwen2.5)");
		chat_close(c);
		c = NULL;
	} else {
		c->program = known[i].program;
		take_literal(&c->before, template, "\"\\n\\n# Tools");
		take_literal(&c->after, template, "\"\\n</tools>");
	}
	free(template);
	return c;
}

/* The template among several that is meant when none is named. */
static const json_t *
default_of(const json_t *list)
{
	const json_t *one;
	const char *name;
	size_t i;

	for (i = 0; i < json_array_size(list); i++) {
		one = json_array_get(list, i);
		name = json_string_value(json_object_get(one, "name"));
		if (name && !strcmp(name, "default"))
			return json_object_get(one, "template");
	}
	return NULL;
}

static char *
template_of(const char *path, size_t *n, char *why)
{
	char inner[REASON_MAX], *text;
	const json_t *template;
	json_t *config;

	if (!(text = file_read(path, n))) {
		reason(why, "cannot read '%s': %s", path, strerror(errno));
		return NULL;
	}
	config = reader_parse(text, *n, inner);
	free(text);
	text = NULL;
	template = json_object_get(config, "chat_template");
	if (json_is_array(template))
		template = default_of(template);
	if (!config)
		reason(why, "'%s': %.400s", path, inner);
	else if (!json_is_string(template))
		reason(why, "'%s' has no chat_template", path);
	else
		text = mem_copy(json_string_value(template), (*n = json_string_length(template)) + 1);
	json_decref(config);
	return text;
}

/* The text of a directory's template and the file that it is from, both to be freed. */
static char *
find_template(const char *directory, char **path, size_t *n, char *why)
{
	char *text;

	*path = file_join(directory, "chat_template.jinja");
	if ((text = file_read(*path, n)))
		return text;
	free(*path);
	*path = file_join(directory, "tokenizer_config.json");
	return template_of(*path, n, why);
}

char *
chat_template(const char *directory, size_t *n, char *why)
{
	char *path, *text = find_template(directory, &path, n, why);

	free(path);
	return text;
}

struct chat *
chat_open(const char *directory, char *why)
{
	char inner[REASON_MAX], *path, *text;
	struct chat *c = NULL;
	size_t n;

	text = find_template(directory, &path, &n, why);
	if (text && !(c = chat_parse(text, n, inner)))
		reason(why, "'%s': %.400s", path, inner);
	free(text);
	free(path);
	return c;
}

static void
say(struct text *out, const char *role, const char *content, size_t n)
{
	text_puts(out, "<|im_start|>");
	text_puts(out, role);
	text_puts(out, "\n");
	text_add(out, content, n);
	text_puts(out, "<|im_end|>\n");
}

static int
is_role(const json_t *message, const char *role)
{
	const char *s = json_string_value(json_object_get(message, "role"));

	return s && !strcmp(s, role);
}

static int
has_items(const json_t *list)
{
	return json_array_size(list) || json_object_size(list);
}

/* The header: the first message when it is the system's, else the default; with the tools. */
static void
render_system(const struct chat *c, const json_t *first, const json_t *tools, struct text *out)
{
	const json_t *content = is_role(first, "system") ? json_object_get(first, "content") : NULL;
	const char *s = content ? json_string_value(content) : c->system.s;
	size_t n = content ? json_string_length(content) : c->system.n, i;

	if (!has_items(tools)) {
		say(out, "system", s, n);
		return;
	}
	text_puts(out, "<|im_start|>system\n");
	text_add(out, s, n);
	text_add(out, c->before.s, c->before.n);
	for (i = 0; i < json_array_size(tools); i++) {
		text_puts(out, "\n");
		json_append(out, json_array_get(tools, i), 1);
	}
	text_add(out, c->after.s, c->after.n);
}

static int
render_calls(const json_t *message, struct text *out, char *why)
{
	const json_t *content = json_object_get(message, "content"), *calls = json_object_get(message, "tool_calls");
	const json_t *call, *name;
	size_t i;

	text_puts(out, "<|im_start|>assistant");
	if (json_string_length(content)) {
		text_puts(out, "\n");
		text_add(out, json_string_value(content), json_string_length(content));
	}
	for (i = 0; i < json_array_size(calls); i++) {
		call = json_array_get(calls, i);
		if (json_object_get(call, "function"))
			call = json_object_get(call, "function");
		name = json_object_get(call, "name");
		if (!json_is_string(name) || !json_object_get(call, "arguments"))
			return reason(why, "a tool call has no name or no arguments");
		text_puts(out, "\n<tool_call>\n{\"name\": \"");
		text_add(out, json_string_value(name), json_string_length(name));
		text_puts(out, "\", \"arguments\": ");
		json_append(out, json_object_get(call, "arguments"), 1);
		text_puts(out, "}\n</tool_call>");
	}
	text_puts(out, "<|im_end|>\n");
	return 0;
}

/* Answers of tools that follow each other are one turn of the user's. */
static void
render_answer(const json_t *messages, size_t i, struct text *out)
{
	const json_t *content = json_object_get(json_array_get(messages, i), "content");

	if (!i || !is_role(json_array_get(messages, i - 1), "tool"))
		text_puts(out, "<|im_start|>user");
	text_puts(out, "\n<tool_response>\n");
	text_add(out, json_string_value(content), json_string_length(content));
	text_puts(out, "\n</tool_response>");
	if (!is_role(json_array_get(messages, i + 1), "tool"))
		text_puts(out, "<|im_end|>\n");
}

static int
check_message(const struct chat *c, const json_t *message, size_t i, char *why)
{
	static const char *const roles[] = { "system", "user", "assistant", "tool" };
	int calls = has_items(json_object_get(message, "tool_calls"));
	size_t k;

	for (k = 0; k < 4 && !is_role(message, roles[k]); k++)
		;
	if (k == 4)
		return reason(why, "message %zu has none of the roles system, user, assistant and tool", i + 1);
	if (c->program == QWEN2 && (calls || k == 3))
		return reason(why, "message %zu uses tools, which this model's chat_template does not have", i + 1);
	if (!json_is_string(json_object_get(message, "content")) && !(calls && k == 2))
		return reason(why, "the content of message %zu is not a string", i + 1);
	return 0;
}

int
chat_render(const struct chat *c, const json_t *messages, const json_t *tools, int open, struct text *out, char *why)
{
	const json_t *message, *content;
	size_t i;

	if (!json_array_size(messages))
		return reason(why, "there are no messages");
	if (c->program == QWEN2 && has_items(tools))
		return reason(why, "there are tools, which this model's chat_template does not have");
	for (i = 0; i < json_array_size(messages); i++)
		if (check_message(c, json_array_get(messages, i), i, why))
			return -1;
	render_system(c, json_array_get(messages, 0), tools, out);
	for (i = 0; i < json_array_size(messages); i++) {
		message = json_array_get(messages, i);
		content = json_object_get(message, "content");
		if (!i && is_role(message, "system"))
			continue;
		if (is_role(message, "tool"))
			render_answer(messages, i, out);
		else if (!is_role(message, "assistant") || !has_items(json_object_get(message, "tool_calls")))
			say(out, json_string_value(json_object_get(message, "role")), json_string_value(content),
			    json_string_length(content));
		else if (render_calls(message, out, why))
			return -1;
	}
	if (open)
		text_puts(out, "<|im_start|>assistant\n");
	return 0;
}
