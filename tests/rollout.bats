#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	seq 400 | jq -c '{id: "r\(.)", instruction: "Add \(.) and \(. * 7).", context: "", response: "It is \(. * 8)."}' >all.jsonl
	train-bpe -q -n 300 --text instruction,response -o tokenizer all.jsonl
	echo '{"model_type":"qwen2","hidden_size":16,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,
		"intermediate_size":24,"max_position_embeddings":128,"rms_norm_eps":1e-6,"tie_word_embeddings":true,
		"initializer_range":0.15,"torch_dtype":"float32"}' >config.json
	init-model -q -s 1 --tokenizer tokenizer -o model config.json
	echo '{instruction}: ' >template
	head -n 12 all.jsonl | jq -c '. + {kept: {x: 1}}' >few.jsonl
	tokenize -m model --text instruction few.jsonl 2>/dev/null | to-json |
		jq -c 'if .header then . else .supervised = [[(.ids | length), (.ids | length)]] end' | from-json >prompts
	rollout -q -m model -s 10,20 -n 3 --max-tokens 24 prompts >replies
	to-json --records replies >replies.jsonl
}

setup() {
	cd "$BATS_FILE_TMPDIR" || return
}

@test "each record has a reply for each seed and sample, in order" {
	jq -s -e 'length == 72 and (map([.id, .seed, .sample]) == [range(1; 13) as $r | (10, 20) as $s | range(3) | ["r\($r)", $s, .]])' replies.jsonl
}

@test "a reply follows its prompt, and has a log-probability for each id" {
	paste -d '\n' <(to-json --records prompts | jq -c '., ., ., ., ., .') replies.jsonl | jq -s -e '[range(0; length; 2) as $i |
		.[$i] as $p | .[$i + 1] | .ids[:.supervised[0][0]] == $p.ids and .supervised[0][1] == (.ids | length) and
		(.logp | length) == .supervised[0][1] - .supervised[0][0] and (.logp | length) == (.model_logp | length) and
		(.logp | length) > 0 and (.logp | length) <= 24] | length == 72 and all'
}

@test "what was drawn is likely under what it was drawn from" {
	# at temperature 1 without filters both are the same distribution
	jq -s -e 'map([.logp, .model_logp] | transpose[] | .[0] - .[1] | fabs) | max < 1e-4' replies.jsonl
	jq -s -e 'map(.logp[]) | add / length | . < -1 and . > -6' replies.jsonl
	rollout -q -m model -k 1 --max-tokens 5 prompts | to-json --records |
		jq -s -e '(map(.logp[]) | length > 12 and (map(fabs) | max) < 1e-5) and (map(.model_logp[]) | max < -0.01)'
}

@test "log-probabilities are those that perplexity finds" {
	own=$(jq -s 'map(.model_logp[]) | -add / length' replies.jsonl)
	jq -e -n --argjson a "$own" --argjson b "$(perplexity -q -m model replies | jq .mean_nll)" '($a - $b | fabs) < 1e-4'
}

@test "text travels on, and the completion is the reply as text without special tokens" {
	jq -s -e 'all(.[]; .kept == {x: 1} and .response and (.completion | type) == "string" and (.finish | IN("stop", "length")))' replies.jsonl
	jq -c 'select(.finish == "length") | {id, ids: .ids[.supervised[0][0]:]}' replies.jsonl >ids.jsonl
	tokenize --decode -m model ids.jsonl 2>/dev/null | jq -c .text | cmp - <(jq -c 'select(.finish == "length") | .completion' replies.jsonl)
}

@test "slots, threads, batches and shards do not change a byte of a record" {
	for options in '--slots 1' '--slots 5 --micro-tokens 3' '--slots 100 -j 1' '-j 2'; do
		# shellcheck disable=SC2086
		rollout -q -m model -s 10,20 -n 3 --max-tokens 24 $options prompts | to-json --records | cmp - replies.jsonl
	done
	for shard in 1 2 3; do
		rollout -q -m model -s 10,20 -n 3 --max-tokens 24 --shard $shard/3 prompts
	done | to-json --records | sort | cmp - <(sort replies.jsonl)
}

@test "order, seeds and samples asked for together do not matter to a reply" {
	to-json --records prompts | tac >backwards.jsonl
	{ to-json prompts | head -n 1; cat backwards.jsonl; } | from-json | rollout -q -m model -s 20 -n 3 --max-tokens 24 |
		to-json --records | sort | cmp - <(grep '"seed":20,' replies.jsonl | sort)
	rollout -q -m model -s 10 --max-tokens 24 prompts | to-json --records |
		cmp - <(grep '"seed":10,"sample":0,' replies.jsonl)
}

@test "the same command gives the same bytes, from a file or a pipe" {
	rollout -q -m model -s 10,20 -n 3 --max-tokens 24 prompts | cmp - replies
	cat prompts | rollout -q -m model -s 10,20 -n 3 --max-tokens 24 | to-json --records | cmp - replies.jsonl
}

@test "an id of the model's list ends a reply and stays in it" {
	eos=$(jq -s -c --argjson own "$(jq .eos_token_id model/config.json)" '[$own, .[0].ids[.[0].supervised[0][0] + 2], .[9].ids[.[9].supervised[0][0] + 4]]' replies.jsonl)
	cp -r model ends
	jq -n --argjson eos "$eos" '{eos_token_id: $eos}' >ends/generation_config.json
	rollout -q -m ends -s 10,20 -n 3 --max-tokens 24 prompts | to-json --records >ended.jsonl
	paste -d '\n' replies.jsonl ended.jsonl | jq -s -e --argjson eos "$eos" '[range(0; length; 2) as $i | .[$i] as $all | .[$i + 1] as $cut |
		$all.ids[$all.supervised[0][0]:] as $ids | ([$ids | to_entries[] | select(.value | IN($eos[])) | .key] | first) as $last |
		$cut.ids[$cut.supervised[0][0]:] == (if $last then $ids[:$last + 1] else $ids end) and
		($cut.finish == "stop") == ($last != null)] | length == 72 and all'
	jq -s -e 'map(.finish) | unique == ["length", "stop"]' ended.jsonl
}

@test "temperature 0 is greedy: the same reply for every seed, and sure of itself" {
	rollout -q -m model -s 1,2 --temperature 0 --max-tokens 8 prompts | to-json --records >cold.jsonl
	jq -s -e '[range(0; length; 2) as $i | .[$i].ids == .[$i + 1].ids] | length == 12 and all' cold.jsonl
	jq -s -e 'map(.logp[]) | unique == [0]' cold.jsonl
	rollout -q -m model -s 1,2 --greedy --max-tokens 8 prompts | to-json --records | cmp - cold.jsonl
}

@test "a prompt that fills the model's positions gets an empty reply, and is counted" {
	to-json prompts | head -n 4 | jq -c 'if .id == "r2" then .ids = [range(128)] | .supervised = [[128, 128]]
		elif .id == "r3" then .ids = [range(126)] | .supervised = [[126, 126]] else . end' | from-json >full
	run --separate-stderr bash -c 'rollout -q -m model --max-tokens 8 full | to-json --records'
	[ "$status" -eq 0 ]
	[ "$stderr" = "rollout: 1 prompts fill the model's 128 positions: their replies are empty" ]
	jq -s -e 'map(.logp | length) == [8, 0, 2] and .[1].finish == "length" and .[1].completion == ""' <<<"$output"
}

@test "the prompt is what stands before the first supervised span" {
	to-json prompts | head -n 2 | jq -c 'if .header then . else .supervised = [[3, 5], [6, 7]] end' | from-json |
		rollout -q -m model --max-tokens 4 | to-json --records |
		jq -e --argjson p "$(to-json --records -n 1 prompts)" '.ids[:3] == $p.ids[:3] and .supervised[0] == [3, (.ids | length)]'
}

@test "replies leave as soon as they are done, though the writer has not ended" {
	mkfifo in
	rollout -q -m model --max-tokens 4 <in | to-json --records >seen &
	exec 9>in
	cat prompts >&9
	for _ in $(seq 100); do
		[ "$(wc -l <seen)" -ge 12 ] && break
		sleep 0.1
	done
	[ "$(wc -l <seen)" -eq 12 ]
	exec 9>&-
	wait
}

@test "a model with another tokenizer is refused" {
	train-bpe -q -n 290 --text instruction -o other all.jsonl
	init-model -q -s 1 --tokenizer other -o stranger config.json
	run --separate-stderr rollout -q -m stranger prompts
	[ "$status" -eq 1 ]
	[[ $stderr == *"another tokenizer"*stranger* ]]
	[ -z "$output" ]
}

@test "no tokenizer, no prompt, another record type: one line each" {
	cp -r model bare
	rm bare/tokenizer.json
	from-json -t tokens <<<'{"id":"q1","ids":[1,2],"supervised":[[0,2]]}' >unasked
	for arguments in '-m bare prompts' '-m model unasked' '-m model replies' '-m absent prompts'; do
		# shellcheck disable=SC2086
		run --separate-stderr rollout -q $arguments
		[ "$status" -eq 1 ]
		[ "${#stderr_lines[@]}" -eq 1 ]
	done
}

@test "options out of range are misuse" {
	for arguments in '-s x' '-s 1,' '-s -1' '-n 0' '--slots 0' '--top-p 0' '--top-p 1.5' '--temperature -1' '--min-p 2' '-k -1'; do
		# shellcheck disable=SC2086
		run --separate-stderr rollout -q -m model $arguments prompts
		[ "$status" -eq 2 ]
	done
}

@test "G replies of every prompt leave in one file that rouge scores by seed" {
	rouge replies | jq -e '.records == 72 and ([.runs[] | [.seed, .sample]] | length == 6)'
}
