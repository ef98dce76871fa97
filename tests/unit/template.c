/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/text/chat.h"
#include "lib/text/reader.h"
#include "lib/text/template.h"
#include "tests/unit/tap.h"

static char why[REASON_MAX];

static const char form[] = "# a comment\nin = context, input, \"\"\nlang = lang, \"C\"\n---\n"
    "{?in}With {in}. {/in}In {lang}: {task} {not a name} {\n---\n{answer}\n";

static int
renders(const char *record, const char *prompt, const char *target)
{
	struct template *t = template_parse(form, sizeof form - 1, why);
	json_t *json = reader_parse(record, strlen(record), why);
	struct text p = { NULL, 0, 0 }, a = { NULL, 0, 0 };
	int rc = template_render(t, json, &p, &a, why);
	int same = !rc && p.n == strlen(prompt) && a.n == strlen(target) && !memcmp(p.s, prompt, p.n) &&
	    !memcmp(a.n ? a.s : "", target, a.n);

	free(p.s);
	free(a.s);
	json_decref(json);
	template_close(t);
	return same;
}

static int
fails(const char *record)
{
	struct template *t = template_parse(form, sizeof form - 1, why);
	json_t *json = reader_parse(record, strlen(record), why);
	struct text p = { NULL, 0, 0 }, a = { NULL, 0, 0 };
	int rc = template_render(t, json, &p, &a, why);

	free(p.s);
	free(a.s);
	json_decref(json);
	template_close(t);
	return rc < 0;
}

static int
refused(const char *text)
{
	struct template *t = template_parse(text, strlen(text), why);

	template_close(t);
	return !t;
}

static void
templates(void)
{
	ok(renders("{\"task\":\"{lang}\",\"answer\":\"x\"}", "In C: {lang} {not a name} {\n", "x"),
	    "fields go in as they are, in one pass");
	ok(renders("{\"input\":\" \",\"context\":\"\",\"task\":\"t\",\"answer\":\"\"}", "With  . In C: t {not a name} {\n", ""),
	    "the first field with text counts, a blank is text");
	ok(renders("{\"input\":null,\"task\":\"t\",\"answer\":\"a\\n\"}", "In C: t {not a name} {\n", "a\n"), "null is absent");
	ok(fails("{\"task\":\"t\"}"), "refused: %s", why);
	ok(fails("{\"task\":7,\"answer\":\"\"}"), "refused: %s", why);
	ok(refused("x\n"), "refused: %s", why);
	ok(refused("x\n---\np\n---\nt\n"), "refused: %s", why);
	ok(refused("---\n{?a}p\n---\nt\n"), "refused: %s", why);
	ok(refused("---\n{?a}{?b}{/b}{/a}\n---\nt\n"), "refused: %s", why);
	ok(refused("---\n{?a}{/b}\n---\nt\n"), "refused: %s", why);
	ok(refused("a = b, \"c\" d\n---\np\n---\nt\n"), "refused: %s", why);
}

static void
chats(void)
{
	static const char other[] = "{% for m in messages %}<|im_start|>system\nBe kind.<|im_end|>{% endfor %}";

	ok(!chat_parse(other, sizeof other - 1, why), "refused: %s", why);
	ok(!chat_parse("", 0, why), "an empty chat_template is refused");
}

static int
reads(const char *text, const char *want)
{
	json_t *json = reader_parse(text, strlen(text), why);
	struct text out = { NULL, 0, 0 };
	int same;

	if (!json)
		return !want;
	json_append(&out, json, 1);
	same = want && out.n == strlen(want) && !memcmp(out.s, want, out.n);
	free(out.s);
	json_decref(json);
	return same;
}

static void
json(void)
{
	static const char *const bad[] = { "", "{", "[1,]", "{\"a\":1,}", "[1 2]", "\"\\x\"", "\"\\ud800\"", "\"\\udc00\\ud800\"",
		"\"a\nb\"", "01", "1.", "-", "1e", "tru", "nul", "[1]]", "\"\xff\"", "99999999999999999999", "1e999", "\"", "{\"a\"}",
		"{a:1}", "\"\\u12\"", ",", "[,1]" };
	char deep[1000];
	size_t i;

	ok(reads(" {\"a\" : [1, -2.5, 1e-5, 1e16, 100000.0, true, null, \"\\u00e9\\n\\ud83d\\ude00\"], \"b\":{}} ",
	    "{\"a\": [1, -2.5, 1e-05, 1e+16, 100000.0, true, null, \"\xc3\xa9\\n\xf0\x9f\x98\x80\"], \"b\": {}}"),
	    "values come out as Python writes them");
	ok(reads("\"\\u0000\\u001f\\\"\\\\/\\b\"", "\"\\u0000\\u001f\\\"\\\\/\\b\""), "NUL and escapes");
	ok(reads("{\"k\\n\":\"\\\\\"}", "{\"k\\n\": \"\\\\\"}"), "a key with an escape survives its value");
	for (i = 0; i < sizeof bad / sizeof *bad; i++)
		ok(reads(bad[i], NULL), "'%s' is refused: %s", strpbrk(bad[i], "\n\xff") ? "..." : bad[i], why);
	memset(deep, '[', sizeof deep - 1);
	deep[sizeof deep - 1] = '\0';
	ok(reads(deep, NULL), "deep nesting is refused: %s", why);
}

int
main(void)
{
	templates();
	chats();
	json();
	return done();
}
