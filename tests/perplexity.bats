#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

config() {
	echo '{"model_type":"qwen2","vocab_size":50,"hidden_size":16,"num_hidden_layers":2,"num_attention_heads":2,
		"num_key_value_heads":1,"intermediate_size":24,"max_position_embeddings":64,"rms_norm_eps":1e-6,
		"tie_word_embeddings":true,"initializer_range":0.3,"torch_dtype":"float32"}' >"$1"
}

gpt2() {
	echo '{"model_type":"gpt2","vocab_size":50,"n_embd":16,"n_layer":2,"n_head":2,"n_positions":8,
		"initializer_range":0.3,"torch_dtype":"float32"}' >"$1"
}

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	config qwen2.json
	gpt2 gpt2.json
	init-model -q -s 1 -o qwen2 qwen2.json
	init-model -q -s 1 -o gpt2 gpt2.json
	cat >examples.jsonl <<-'END'
		{"id":"a","ids":[5,6,7,8,9,10],"supervised":[[2,4],[5,6]]}
		{"id":"b","ids":[1],"supervised":[[0,1]]}
		{"id":"c","ids":[9,8,7,6,5,4,3,2,1,0],"supervised":[[1,10]]}
	END
	from-json -t tokens examples.jsonl >examples
}

setup() {
	cd "$BATS_FILE_TMPDIR" || return
}

near() {
	jq -e -n --argjson a "$1" --argjson b "$2" '(($a - $b) | fabs) < 1e-5 * (1 + ($b | fabs))'
}

@test "the mean is over supervised tokens of all records, not over records" {
	all=$(perplexity -q -m qwen2 examples)
	own=$(perplexity -q -m qwen2 --each examples | jq -s 'map(select(.targets > 0))')
	near "$(jq .mean_nll <<<"$all")" "$(jq '(map(.mean_nll * .targets) | add) / (map(.targets) | add)' <<<"$own")"
	near "$(jq .perplexity <<<"$all")" "$(jq '.mean_nll | exp' <<<"$all")"
	jq -e '.targets == 12 and .records == 3' <<<"$all"
}

@test "it is the log-probability that a full cache of the same model has at the target" {
	teacher-logits -q -f full -m qwen2 examples | to-json --records >full.jsonl
	expected=$(jq -s '[.[] | .ids as $ids | .logprobs as $l |
		[.supervised[] | range(.[0]; .[1])] | map(select(. > 0)) | to_entries[] | -$l[.key][$ids[.value]]] | add / length' full.jsonl)
	jq -e -n --argjson a "$(perplexity -q -m qwen2 examples | jq .mean_nll)" --argjson b "$expected" '($a - $b | fabs) < 3e-3'
}

@test "a record has the same value alone and in any batch, with any number of threads" {
	perplexity -q -m qwen2 --each examples >together
	for options in '--micro-tokens 1' '-j 1' '-j 2 --micro-tokens 7'; do
		# shellcheck disable=SC2086
		perplexity -q -m qwen2 --each $options examples | cmp - together
	done
	for shard in 1 2 3; do
		perplexity -q -m qwen2 --each --shard $shard/3 examples
	done | cmp - together
}

@test "a head in 8 bits costs a little, and says so" {
	perplexity -q -m qwen2 --head int8 examples >rounded
	jq -e '.head_kl > 0 and .head_kl < 1e-3' rounded
	near_enough=$(jq -n --argjson a "$(jq .mean_nll rounded)" --argjson b "$(perplexity -q -m qwen2 examples | jq .mean_nll)" '($a - $b) | fabs < 0.05')
	[ "$near_enough" = true ]
	perplexity -q -m qwen2 --head stored examples | jq -e 'has("head_kl") | not'
	own=$(perplexity -q -m qwen2 --head int8 --each examples | jq -s 'map(select(.targets > 0))')
	near "$(jq .head_kl rounded)" "$(jq '(map(.head_kl * .targets) | add) / (map(.targets) | add)' <<<"$own")"
}

@test "a record without targets has no value" {
	perplexity -q -m qwen2 --each examples | sed -n 2p | jq -e '.id == "b" and .perplexity == null and .targets == 0'
}

@test "nothing to score is an error" {
	from-json -t tokens <<<'{"id":"a","ids":[1,2],"supervised":[]}' >none
	run --separate-stderr perplexity -q -m qwen2 none
	[ "$status" -eq 1 ]
	[ "$stderr" = "perplexity: 'none' has no supervised tokens" ]
	[ -z "$output" ]
}

@test "an id that the model does not have is refused, with its record" {
	from-json -t tokens <<<'{"id":"r7","ids":[1,50,2],"supervised":[[1,3]]}' >large
	run --separate-stderr perplexity -q -m qwen2 large
	[ "$status" -eq 1 ]
	[[ $stderr == *"'r7'"*50* ]]
	[ -z "$output" ]
}

@test "more ids than gpt2 has positions are refused; as many are not" {
	from-json -t tokens <<<'{"id":"r7","ids":[1,2,3,4,5,6,7,8,9],"supervised":[[1,9]]}' >long
	run --separate-stderr perplexity -q -m gpt2 long
	[ "$status" -eq 1 ]
	[[ $stderr == *"'r7'"*"8 positions"* ]]
	from-json -t tokens <<<'{"id":"r7","ids":[1,2,3,4,5,6,7,8],"supervised":[[1,8]]}' >fits
	perplexity -q -m gpt2 fits
}

@test "a model or a stream that does not do is one line and exit 1" {
	mkdir -p empty
	for arguments in '-m absent examples' '-m empty examples' '-m qwen2 absent' '-m qwen2 examples.jsonl'; do
		# shellcheck disable=SC2086
		run --separate-stderr perplexity -q $arguments
		[ "$status" -eq 1 ]
		[ "${#stderr_lines[@]}" -eq 1 ]
		[ -z "$output" ]
	done
}
