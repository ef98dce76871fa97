#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_TMPDIR"
}

merges() {
	jq -r '.model.merges[]' "$1/tokenizer.json"
}

@test "the most frequent pair is merged first, counts by hand" {
	# "hug" 10, "pug" 5, "pun" 12, "bun" 4, "hugs" 5: ug 20, then un 16, then h ug 15
	for w in hug:10 pug:5 pun:12 bun:4 hugs:5; do
		for ((i = 0; i < ${w#*:}; i++)); do echo "{\"t\":\"${w%:*}\"}"; done
	done >words.jsonl
	train-bpe -q -o tok -n 260 --text t words.jsonl
	[ "$(merges tok)" = $'u g\nu n\nh ug' ]
}

@test "of equal counts the pair with the smaller ids comes first" {
	printf '{"t":"%s"}\n' zy zy ba ba ab ab >words.jsonl
	train-bpe -q -o tok -n 260 --text t words.jsonl
	[ "$(merges tok)" = $'a b\nb a\nz y' ]
}

@test "occurrences that overlap count, and are merged left to right" {
	printf '{"t":"%s"}\n' aaa aaa bc bc bc >words.jsonl
	train-bpe -q -o tok -n 260 --min-frequency 2 --text t words.jsonl
	# aa: twice in each aaa, 4 against 3 of bc; then aa a: 2
	[ "$(merges tok)" = $'a a\nb c\naa a' ]
}

@test "pairs below the minimum are not merged" {
	printf '{"t":"%s"}\n' ab ab ab cd cd >words.jsonl
	train-bpe -q -o tok -n 300 --min-frequency 3 --text t words.jsonl
	[ "$(merges tok)" = 'a b' ]
}

@test "merges do not cross pieces, nor documents" {
	printf '{"t":"%s"}\n' '1 1 1' '.' 'a' '.' 'a' >words.jsonl
	train-bpe -q -o tok -n 300 --text t words.jsonl
	[ -z "$(merges tok)" ]
	train-bpe -q -o tok2 -n 300 --pre-tokenizer gpt2 --text t words.jsonl
	[ "$(merges tok2)" = 'Ġ 1' ]
}

@test "qwen2 composes before it counts, gpt2 does not" {
	printf '{"t":"e\\u0301"}\n{"t":"e\\u0301"}\n' >words.jsonl
	train-bpe -q -o tok -n 300 --text t words.jsonl
	[ "$(merges tok)" = 'Ã ©' ]
	train-bpe -q -o tok2 -n 300 --pre-tokenizer gpt2 --text t words.jsonl
	# a mark is no letter for GPT-2's pattern
	[ "$(merges tok2)" = 'Ì ģ' ]
}

@test "the size counts bytes, merges and special tokens" {
	yes '{"t":"the quick brown fox jumps"}' | head -9 >words.jsonl
	train-bpe -q -o tok -n 266 --text t --special '<|end|>' --special '<|x|>' words.jsonl
	jq -e '(.model.vocab | length) == 264 and (.added_tokens | map([.id, .content]) == [[264, "<|end|>"], [265, "<|x|>"]])' tok/tokenizer.json
	jq -e '.eos_token == "<|end|>"' tok/tokenizer_config.json
	run -2 train-bpe -q -o tok -n 256 --text t words.jsonl
}

@test "fields, templates and plain texts are corpora" {
	echo '{"instruction":"zzzz","context":null,"response":"qqqq"}' >one.jsonl
	train-bpe -q -o a -n 400 --text instruction,context one.jsonl
	[ "$(merges a)" = $'z z' ]
	train-bpe -q -o b -n 400 -t dolly one.jsonl
	merges b | grep -q '^Ġ'
	merges b | grep -qx 'q q'
	printf 'ab\n\nab\n\nab\n\n' >plain.txt
	train-bpe -q -o c -n 400 --plain plain.txt
	[ "$(merges c)" = $'a b\nĊ Ċ' ]
}

@test "what it writes, tokenize reads" {
	echo '{"t":"the quick brown fox the quick"}' >one.jsonl
	train-bpe -q -o tok -n 300 --text t one.jsonl
	text=$(tokenize -q -m tok --text t --eos none one.jsonl | tokenize -m tok --decode | jq -r .text)
	[ "$text" = "the quick brown fox the quick" ]
}

@test "a bad line is named, and nothing is left behind" {
	printf '{"t":"ab"}\n{"t":3}\n' >bad.jsonl
	run -1 train-bpe -o tok --text t bad.jsonl
	[[ $output == *"bad.jsonl, line 2: field 't' is not a string"* ]]
	[ "$(ls)" = bad.jsonl ]
	run -1 train-bpe -o tok --text t <<<'["t"]'
	[[ $output == *"<stdin>, line 1: this is not a JSON object"* ]]
	run -1 train-bpe -o tok --text test,u <<<'{"t":"ab"}'
	[[ $output == *"not one of 1 lines has a field 'test,u'"* ]]
	[ "$(ls)" = bad.jsonl ]
	run -1 train-bpe -o tok --plain <(printf 'a\xff')
	[[ $output == *"not UTF-8, at its byte 1"* ]]
	run -2 train-bpe --text t bad.jsonl
	run -2 train-bpe -o tok bad.jsonl
	run -2 train-bpe -o tok --text t --pre-tokenizer other bad.jsonl
}
