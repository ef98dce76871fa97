#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_TMPDIR" || return
}

# records on stdin with what matters, as rollouts on stdout; a completion of `n` tokens
rollouts() {
	{
		echo '{"header":{"type":"rollouts"}}'
		jq -c '(.n // 4) as $n | del(.n) | {id: "q", sample: 0, finish: "stop"} + . +
			{ids: [range($n + 2)], supervised: [[2, $n + 2]], logp: [range($n) | -1], model_logp: [range($n) | -1]}'
	} | from-json
}

# rewards SPEC...: what the records on stdin earn, as JSON
rewards() {
	rollouts | reward "$@" | to-json --records | jq -c .rewards
}

needs_sandbox() {
	rollouts </dev/null | reward code=1 2>why >/dev/null || skip "$(cat why)"
}

python() {
	jq -nc --arg code "$1" '{completion: "It is\n```python\n\($code)\n```\n", tests: [{input: "2 3\n", output: "5\n"}, {input: "4 4\n", output: "8\n"}]}'
}

@test "rewards are a column each and a weighted sum; all that the record had travels on" {
	echo '{"completion":"<think>First, a\n</think><answer>b</answer>","kept":{"x":1}}' | rollouts >in
	reward format=1 steps=0.5 tags=-2 in >out
	to-json --records out | jq -e '.rewards == {format: 1, steps: (1/3), tags: 1} and .kept == {x: 1} and .finish == "stop" and
		(.reward - (1 + 0.5 / 3 - 2) | fabs) < 1e-12'
	diff <(to-json --records in) <(to-json --records out | jq -c 'del(.rewards, .reward)')
	to-json -n 0 out | jq -e '.header.type == "rewards" and .header.rewards == [{name: "format", weight: 1, params: {}},
		{name: "steps", weight: 0.5, params: {}}, {name: "tags", weight: -2, params: {}}]'
}

@test "what cannot be judged is null and has no part in the sum" {
	[ "$(echo '{"completion":"<answer>4</answer>"}' | rewards answer=1 rouge=1 cosine=1 keywords=1 tags=1)" = \
		'{"answer":null,"rouge":null,"cosine":null,"keywords":null,"tags":0.5}' ]
	echo '{"completion":"<answer>4</answer>","references":[]}' | rollouts | reward answer=1 tags=3 | to-json --records | jq -e '.reward == 1.5'
	echo '{"completion":"x","tests":[]}' | rollouts | reward answer=1 | to-json --records | jq -e '.reward == null'
}

@test "references come before the target" {
	[ "$(echo '{"completion":"<answer>4</answer>","target":"5","references":["3","4.0"]}' | rewards answer=1)" = '{"answer":1}' ]
	[ "$(echo '{"completion":"<answer>5</answer>","target":"5","references":[]}' | rewards answer=1)" = '{"answer":1}' ]
	[ "$(echo '{"completion":"<answer>5</answer>","target":"6"}' | rewards answer=1)" = '{"answer":0}' ]
}

@test "parameters are set by name, or by the beginning of a name" {
	echo '{"completion":"a b a b a b","n":10,"target":"x"}' >line
	[ "$(rewards overlong=1:max=12,cache=4 <line)" = '{"overlong":-0.5}' ]
	[ "$(rewards overlong=1:m=9,c=4 <line)" = '{"overlong":-1}' ]
	[ "$(rewards repetition=1:n=2,max=0.5 <line)" = '{"repetition":-0.3}' ]
	[ "$(rewards cosine=1:max_len=20,wrong=-1,wrong=0 <line)" = '{"cosine":-0.5}' ]
	[ "$(echo '{"completion":"<think>Because C++!</think>"}' | rewards keywords=1:key=because,key=c++,key=so,key=so)" = '{"keywords":0.5}' ]
	[ "$(echo '{"completion":"<think>because</think>","keywords":["because"]}' | rewards keywords=1)" = '{"keywords":1}' ]
}

@test "length counts the tokens of thought, by the tokenizer of the stream" {
	seq 200 | jq -c '{text: "one two three \(.)"}' >text.jsonl
	train-bpe -q -n 300 --text text -o model text.jsonl
	train-bpe -q -n 260 --text text -o other text.jsonl
	echo '{"text":"one two three 77"}' | tokenize -m model --text text 2>/dev/null >tokens
	n=$(to-json --records tokens | jq '.ids | length')
	echo '{"completion":"<think>one two three 77</think><answer>x</answer>","n":50}' | rollouts >in
	[ "$(reward -m model length=1:min=0,max=1000 in | to-json --records | jq ".rewards.length * 1000 == $n")" = true ]
	to-json in | jq -c --arg d "$(to-json -n 0 tokens | jq -r .header.tokenizer)" 'if .header then .header.tokenizer = $d else . end' |
		from-json >stated
	reward -m model length=1 stated >/dev/null
	run --separate-stderr -1 reward -m other length=1 stated
	[ "$stderr" = "reward: 'stated' was made with another tokenizer than that of 'other'" ]
	run --separate-stderr -2 reward length=1 in
	[[ "$stderr" == "reward: length counts tokens of thought, for which --model must name a tokenizer"* ]]
}

@test "--explain prints scores and why as JSON lines" {
	echo '{"id":"q7","completion":"<think>a</think><answer>4</answer>!","target":"5"}' | rollouts | reward --explain format=1 answer=2 >lines
	jq -e '.id == "q7" and .reward == 0 and .rewards == {format: 0, answer: 0} and
		.why == {format: "1 bytes behind the answer part", answer: "'"'4' is wrong"'"}' lines
}

@test "rewards are added to rewards" {
	echo '{"completion":"<think>a</think><answer>4</answer>"}' | rollouts | reward format=2 | reward tags=3 >out
	to-json out | jq -s -e '.[1].rewards == {format: 1, tags: 1} and .[1].reward == 5 and (.[0].header.rewards | map(.name)) == ["format", "tags"]'
	run --separate-stderr -1 reward format=1 out
	[ "$stderr" = "reward: 'out' has the reward format already" ]
}

@test "any number of threads gives the same bytes, in order" {
	seq 3000 | jq -c '{id: "q\(.)", completion: (. as $i | [range($i % 3) | "<think>First, \($i % 7)</think>"] | join(" ")), target: "\(.)"}' | rollouts >in
	reward -j 1 format=1 steps=1 answer=1 repetition=0.1 in >one
	reward -j 7 format=1 steps=1 answer=1 repetition=0.1 in | to-json --records | cmp - <(to-json --records one)
	diff <(to-json --records one | jq -r .id) <(seq -f 'q%.0f' 3000)
}

@test "what arrived leaves, though the writer has not ended" {
	mkfifo in
	reward format=1 <in | to-json --records >seen &
	exec 9>in
	seq 5 | jq -c '{completion: "x"}' | rollouts >&9
	for _ in $(seq 100); do
		[ "$(wc -l <seen)" -eq 5 ] && break
		sleep 0.1
	done
	[ "$(wc -l <seen)" -eq 5 ]
	exec 9>&-
	wait
}

@test "programs are run on each test" {
	needs_sandbox
	{
		python 'print(sum(map(int, input().split())))'
		python 'a, b = input().split()
print(a * 0 + "5")'
		python 'print('
		python 'while True: pass' | jq -c '.tests = [.tests[0]]'
		jq -nc '{completion: "I do not know", tests: [{input: "", output: ""}]}'
		jq -nc '{completion: "```python\nprint(1)\n```", tests: []}'
		jq -nc '{completion: "```c++\n#include <cstdio>\nint main() { int a, b; scanf(\"%d%d\", &a, &b); printf(\"%d\", a + b); }\n```",
			tests: [{input: "1 2", output: "3\n"}, {input: "1 2", output: "4"}]}'
	} | rewards code=1:lang=python,time=0.5 -j 4 | jq -s -c 'map(.code)' >got
	jq -e '. == [1, 0.5, -0.1, 0, -1, null, 0.5]' got || { cat got; false; }
}

@test "a checker says what is right" {
	needs_sandbox
	cat >checker <<-'EOF'
		#!/bin/sh
		[ "$(sort)" = "$(sort "$2")" ] && [ -s "$1" ]
	EOF
	line() {
		jq -nc --arg code "$1" '{completion: "```python\n\($code)\n```", tests: [{input: "x", output: "1\n2\n"}]}'
	}
	{ line 'print(2)
print(1)'; line 'print(3)'; } >lines
	[ "$(rewards code=1:checker=checker <lines | jq -s -c 'map(.code)')" = '[1,0]' ]
	[ "$(rewards code=1 <lines | jq -s -c 'map(.code)')" = '[0,0]' ]
	echo 'exit 7' >checker
	run --separate-stderr -1 bash -c 'reward code=1:checker=checker <"$0"' <(rollouts <lines)
	[[ "$stderr" == "reward: the checker of programs ends with status"* ]]
}

@test "right programs of the samples pass all their tests" {
	needs_sandbox
	head -n 6 "$BATS_TEST_DIRNAME/../samples/python.dev.jsonl" |
		jq -c '{completion: "```python\n\(.original_string)```", tests}' | rewards code=1 | jq -s -e 'map(.code) == [range(6) | 1]'
}

@test "without bubblewrap, code is refused and nothing runs" {
	echo '{"completion":"```python\nopen(\"ran\", \"w\")\n```","tests":[{"input":"","output":""}]}' | rollouts >in
	tool=$(command -v reward)
	run --separate-stderr -1 env PATH=/nonexistent "$tool" code=1 in
	[ "$stderr" = "reward: code runs programs, but no sandbox can be made here: cannot run bwrap: No such file or directory" ]
	[ -z "$output" ] && [ ! -e ran ]
}

@test "a command line that is wrong is misuse" {
	for arguments in '' 'format' 'format=' 'format=x' 'format=1:' 'format=1:a=2' 'nothing=1' 'format=1 format=2' 'length=1:min=9,max=3' \
		'overlong=1:cache=-1' 'repetition=1:n=0' 'repetition=1:n=1.5' 'cosine=1:correct=1' 'code=1:time=0' 'code=1:language=perl' \
		'keywords=1:keywords=' 'code=1:checker=/nonexistent' 'format=nan' 'format=1 --explain -o x' 'code=1:time'; do
		# shellcheck disable=SC2086
		run --separate-stderr -2 reward $arguments </dev/null
		[ -z "$output" ] && [ "${#stderr_lines[@]}" -eq 2 ] || { echo "$arguments: $stderr"; false; }
	done
}

@test "records without a completion, and other streams, are one line and exit 1" {
	echo '{"completion":"x"}' | rollouts | to-json | jq -c 'del(.completion)' | from-json >in
	run --separate-stderr -1 reward format=1 in
	[ "$stderr" = "reward: 'in': record 'q' has no completion" ]
	from-json -t tokens <<<'{"id":"q1","ids":[1,2],"supervised":[[0,2]]}' >tokens
	run --separate-stderr -1 reward format=1 tokens
	[ "$stderr" = "reward: 'tokens' carries tokens, not rollouts or rewards" ]
	head -c 100 in >cut
	run --separate-stderr -1 reward format=1 cut
	[[ "$stderr" == "reward: 'cut' ends early"* ]]
	run --separate-stderr -1 bash -c 'reward --explain tags=1 in >/dev/full'
	[ "${#stderr_lines[@]}" -eq 1 ]
}
