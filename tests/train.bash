# SPDX-License-Identifier: MIT
# train - what the tests of sft and distill share: tiny models, a language to learn, runs that are killed

setup() {
	cd "$BATS_TEST_TMPDIR" || exit
	export OMP_NUM_THREADS=1
	echo '{"model_type":"qwen2","hidden_size":32,"num_hidden_layers":2,"num_attention_heads":4,
		"num_key_value_heads":2,"intermediate_size":64,"vocab_size":61,"tie_word_embeddings":true,
		"initializer_range":0.1,"dtype":"float32"}' >qwen2.json
	echo '{"model_type":"gpt2","n_embd":32,"n_layer":2,"n_head":2,"n_positions":24,"vocab_size":61,
		"initializer_range":0.1,"torch_dtype":"float32"}' >gpt2.json
	init-model -q -s 1 -o base qwen2.json
	language 0 24 | from-json >train.tokens.zst
	language 100 8 | from-json >dev.tokens.zst
}

# language FIRST COUNT: x -> 3 x + step modulo 53, where the first id says the step
language() {
	jq -nc --argjson first "$1" --argjson count "$2" '
		{header: {type: "tokens", vocab: 59}},
		(range($first; $first + $count) | . as $i | ($i % 5 + 53) as $step |
			[$step, limit($i % 7 + 5; ($i * 11 % 53) | recurse((3 * . + $step) % 53))] |
			{id: "r\($i)", ids: ., supervised: [[2, length]]})'
}

# what must not depend on when the run was stopped
metrics() {
	jq -c 'del(.seconds, .tokens_per_second, .peak_bytes)' "$1/metrics.jsonl"
}

loss() {
	jq -s "map(select(.loss)) | .[$2].loss" "$1/metrics.jsonl"
}

# below A B: A is less than B
below() {
	jq -en "$1 < $2" >/dev/null || { echo "$1 is not below $2"; return 1; }
}

same_run() {
	metrics "$1" | cmp - <(metrics "$2")
	cmp "$1/model/model.safetensors" "$2/model/model.safetensors"
	[ ! -e "$1/best" ] || cmp "$1/best/model.safetensors" "$2/best/model.safetensors"
}

# until_done RUN COMMAND: kill -9 it, with all of its pipe, at random moments, the first early, until it ends by itself
until_done() {
	local run=$1 kills=0 pid
	while :; do
		setsid bash -o pipefail -c "$2" 2>>"$run.log" &
		pid=$!
		# some sanitized pipes take seconds to begin
		sleep "${SANITIZE:+$((kills % 4))}.$((RANDOM % (kills ? 30 : 5) + kills % 10 + 10))"
		kill -9 -- -$pid 2>/dev/null || :
		wait $pid && break
		[ $? -eq 137 ] || { cat "$run.log"; return 1; }
		# the others of the pipe may still be ending
		while kill -0 -- -$pid 2>/dev/null; do sleep 0.01; done
		kills=$((kills + 1))
		[ $kills -lt 300 ] || { echo "no end after 300 kills"; return 1; }
		# what has its final name is complete
		[ ! -e "$run/model" ] || complete "$run/model/model.safetensors"
	done
	[ $kills -gt 0 ] || { echo "it was never killed"; return 1; }
}

# a safetensors file is as long as its header says
complete() {
	local n
	n=$(od -An -tu8 -N8 "$1")
	[ $((8 + n + $(tail -c +9 "$1" | head -c "$n" | jq '[.[] | .data_offsets? | select(.) | .[1]] | max'))) \
		-eq "$(stat -c %s "$1")" ]
}
