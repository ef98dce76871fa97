/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/text/example.h"

void
example_free(struct example *e)
{
	free(e->prompt.s);
	free(e->target.s);
	free(e->ids.id);
}

static int
render_chat(const struct formatting *r, const json_t *record, struct example *e, char *why)
{
	const json_t *messages = json_object_get(record, "messages"), *last, *content;
	const char *role;
	json_t *before;
	size_t n = json_array_size(messages);
	int rc;

	if (n < 2)
		return reason(why, "there is no list 'messages' of two or more");
	last = json_array_get(messages, n - 1);
	role = json_string_value(json_object_get(last, "role"));
	content = json_object_get(last, "content");
	if (!role || strcmp(role, "assistant") || !json_is_string(content))
		return reason(why, "the last of 'messages' is no text of the assistant");
	if (json_array_size(json_object_get(last, "tool_calls")))
		return reason(why, "the last of 'messages' calls tools, which cannot be a target here");
	before = json_copy((json_t *)messages);
	json_array_remove(before, n - 1);
	rc = chat_render(r->chat, before, json_object_get(record, "tools"), 1, &e->prompt, why);
	json_decref(before);
	text_add(&e->target, json_string_value(content), json_string_length(content));
	return rc;
}

static int
render(const struct formatting *r, const json_t *record, struct example *e, char *why)
{
	const json_t *text;

	e->prompt.n = e->target.n = e->ids.n = 0;
	if (!json_is_object(record))
		return reason(why, "this is not a JSON object");
	if (r->chat)
		return render_chat(r, record, e, why);
	if (r->template)
		return template_render(r->template, record, &e->prompt, &e->target, why);
	text = json_object_get(record, r->field);
	if (!json_is_string(text))
		return reason(why, "there is no text in field '%s'", r->field);
	text_add(&e->target, json_string_value(text), json_string_length(text));
	return 0;
}

int
example_make(const struct formatting *r, const json_t *record, struct example *e, char *why)
{
	size_t prompt;

	if (render(r, record, e, why) ||
	    tokenizer_encode(r->tokenizer, e->prompt.s, e->prompt.n, r->chat != NULL, &e->ids, why))
		return -1;
	prompt = e->ids.n;
	e->cut = 0;
	e->dropped = prompt > r->max_prompt || prompt >= r->max_length;
	if (e->dropped) {
		e->ids.n = 0;
		return 0;
	}
	if (tokenizer_encode(r->tokenizer, e->target.s, e->target.n, 0, &e->ids, why))
		return -1;
	if (r->eos >= 0)
		ids_add(&e->ids, r->eos);
	/* plain text may have windows of any number: see bin/tokenize.c */
	e->cut = e->ids.n > r->max_length && !r->field;
	if (e->cut)
		e->ids.n = r->max_length;
	/* nothing predicts the first id */
	e->begin = prompt ? prompt : 1;
	e->end = e->ids.n;
	return 0;
}
