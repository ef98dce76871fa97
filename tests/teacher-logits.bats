#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	echo '{"model_type":"qwen2","vocab_size":50,"hidden_size":16,"num_hidden_layers":2,"num_attention_heads":2,
		"num_key_value_heads":1,"intermediate_size":24,"max_position_embeddings":64,"rms_norm_eps":1e-6,
		"tie_word_embeddings":false,"initializer_range":0.3,"torch_dtype":"float32"}' >config.json
	init-model -q -s 1 -o teacher config.json
	cat >examples.jsonl <<-'END'
		{"id":"a","prompt":"p","ids":[5,6,7,8,9,10],"supervised":[[2,4],[5,6]]}
		{"id":"b","ids":[1],"supervised":[[0,1]]}
		{"id":"c","unknown":{"x":[1]},"ids":[9,8,7,6,5,4,3,2,1,0],"supervised":[[1,10]]}
		{"id":"d","ids":[3,3],"supervised":[]}
	END
	from-json -t tokens examples.jsonl >examples
	for form in hidden topk sample full; do
		teacher-logits -q -m teacher -f $form -k 4 -s 3 examples >$form
		to-json --records $form >$form.jsonl
	done
}

setup() {
	cd "$BATS_FILE_TMPDIR" || return
}

@test "every form holds the supervised positions that an id stands before, and no other" {
	jq -s -e '[.[].hidden | length] == [3, 0, 9, 0] and (.[0].hidden[0] | length) == 16' hidden.jsonl
	jq -s -e '[.[].topk_ids | length] == [3, 0, 9, 0] and [.[].log_tail | length] == [3, 0, 9, 0]' topk.jsonl
	jq -s -e '[.[].sample_offsets | length] == [4, 1, 10, 1]' sample.jsonl
	jq -s -e '[.[].logprobs | length] == [3, 0, 9, 0] and (.[0].logprobs[0] | length) == 50' full.jsonl
}

@test "ids, spans and all text travel on, in order" {
	for form in hidden topk sample full; do
		jq -c 'with_entries(select(.key | IN("id", "prompt", "unknown", "ids", "supervised")))' $form.jsonl |
			cmp - examples.jsonl
	done
}

@test "full log-probabilities are normalised" {
	jq -s -e '[.[].logprobs[] | map(exp) | add - 1 | fabs] | length == 12 and max < 2e-3' full.jsonl
}

@test "the likeliest ids and the tail are those of the full distribution" {
	paste -d '\n' full.jsonl topk.jsonl | jq -s -e '[range(0; length; 2) as $i | .[$i].logprobs as $f | .[$i + 1] as $t |
		range($f | length) as $p | ($f[$p] | to_entries | sort_by(-.value)[:4] | map(.value)) as $best |
		($t.topk_logprobs[$p] as $l | [$l, $best] | transpose | map(.[0] - .[1] | fabs) | max),
		([$t.topk_ids[$p][] as $id | $f[$p][$id]] as $at | [$at, $t.topk_logprobs[$p]] | transpose | map(.[0] - .[1] | fabs) | max),
		(($t.log_tail[$p] | exp) + ($t.topk_logprobs[$p] | map(exp) | add) - 1 | fabs)] | length == 36 and max < 5e-3'
}

@test "the head times a hidden state is the full distribution" {
	python=$(command -v python3) || skip "needs python3 to read a safetensors file"
	"$python" - <<-'END'
		import json, math, struct
		raw = open("teacher/model.safetensors", "rb").read()
		n = struct.unpack("<Q", raw[:8])[0]
		head = json.loads(raw[8:8 + n])["lm_head.weight"]
		begin, end = head["data_offsets"]
		w = struct.unpack("<%df" % (50 * 16), raw[8 + n + begin:8 + n + end])
		rows = 0
		for hidden, full in zip(open("hidden.jsonl"), open("full.jsonl")):
		    for h, f in zip(json.loads(hidden)["hidden"], json.loads(full)["logprobs"]):
		        z = [sum(w[v * 16 + c] * h[c] for c in range(16)) for v in range(50)]
		        lse = math.log(sum(math.exp(x) for x in z))
		        assert max(abs(a - lse - b) for a, b in zip(z, f)) < 0.03
		        rows += 1
		assert rows == 12
	END
}

@test "draws are as many as asked for, ascending, and follow the distribution" {
	jq -s -e '[.[] | .sample_offsets as $o | .sample_counts as $c | .sample_ids as $i | range($o | length - 1) as $p |
		($c[$o[$p]:$o[$p + 1]] | add == 50), ($i[$o[$p]:$o[$p + 1]] | . == (sort | unique))] | length == 24 and all' sample.jsonl
	teacher-logits -q -m teacher -f sample --draws 60000 examples | to-json --records >many.jsonl
	paste -d '\n' full.jsonl many.jsonl | jq -s -e '[range(0; length; 2) as $i | .[$i].logprobs as $f | .[$i + 1] as $s |
		range($f | length) as $p | range($s.sample_offsets[$p]; $s.sample_offsets[$p + 1]) as $e |
		$s.sample_counts[$e] / 60000 - ($f[$p][$s.sample_ids[$e]] | exp) | fabs] | length > 200 and max < 0.01'
}

@test "the same seed gives the same draws, another one others" {
	teacher-logits -q -m teacher -f sample -s 3 examples | to-json --records | cmp - sample.jsonl
	run cmp <(teacher-logits -q -m teacher -f sample -s 4 examples | to-json --records) sample.jsonl
	[ "$status" -eq 1 ]
}

@test "batches, threads and shards do not change a byte of a record" {
	for form in hidden topk sample full; do
		for options in '--micro-tokens 1' '--micro-tokens 8 -j 2' '-j 1'; do
			# shellcheck disable=SC2086
			teacher-logits -q -m teacher -f $form -k 4 -s 3 $options examples | to-json --records | cmp - $form.jsonl
		done
		for shard in 1 2 3 4; do
			teacher-logits -q -m teacher -f $form -k 4 -s 3 --shard $shard/4 examples
		done | to-json --records | cmp - $form.jsonl
	done
}

@test "two runs give the same bytes" {
	teacher-logits -q -m teacher -f topk -k 4 -s 3 examples | cmp - topk
}

@test "the header names form, head, teacher and vocabulary" {
	to-json --header hidden | jq -e --arg path "$PWD/teacher" '.type == "logits" and .form == "hidden" and
		.vocab == 50 and .teacher.path == $path and (.head | test("^[0-9a-f]{32}$"))'
	cp -r teacher moved
	jq -e -n --argjson a "$(to-json --header hidden)" \
		--argjson b "$(teacher-logits -q -m moved examples | to-json --header)" '$a.head == $b.head'
}

@test "softmaxes end at the vocabulary of the stream's tokenizer" {
	to-json examples | jq -c 'if .header then .header.vocab = 40 else . end' | from-json >small
	teacher-logits -q -m teacher -f full small | to-json --records |
		jq -s -e '[.[].logprobs[] | length == 40 and (map(exp) | add - 1 | fabs) < 2e-3] | length == 12 and all'
	to-json examples | jq -c 'if .header then .header.vocab = 51 else . end' | from-json >large
	run --separate-stderr teacher-logits -q -m teacher large
	[ "$status" -eq 1 ]
	[[ $stderr == *51*50* ]]
}

@test "a batch is handed over before the next record comes" {
	mkfifo in
	teacher-logits -q -m teacher <in 2>/dev/null | to-json --records >seen &
	exec 9>in
	head -c "$(stat -c %s examples)" examples >&9
	for _ in $(seq 100); do
		[ "$(wc -l <seen)" -ge 4 ] && break
		sleep 0.1
	done
	[ "$(wc -l <seen)" -ge 4 ]
	exec 9>&-
	wait
}

@test "a long pipe takes no more memory than a short one" {
	export ASAN_OPTIONS=quarantine_size_mb=1	# for sanitized builds, which keep freed memory
	peak() {
		for _ in $(seq "$1"); do cat many; done | command time -f %M -o memory teacher-logits -q -m teacher | cat >/dev/null
		cat memory
	}
	seq 300 | jq -c '{id: "r\(.)", ids: [range(40)], supervised: [[1, 40]]}' | from-json -t tokens >many
	short=$(peak 1)
	long=$(peak 8)
	[ "$long" -lt $((short + 4096)) ]
}

@test "through a pipe, a student learns from each form what it learns from the teacher itself" {
	init-model -q -s 2 -o student config.json
	to-json examples | jq -c 'if .header then .header.vocab = 50 else . end' | from-json >sized
	divergence() {
		distill -q -m student --divergence kd --steps 1 --batch 4 -o "run.$1" "${@:2}" && jq .div "run.$1/metrics.jsonl"
	}
	taught=$(divergence computed --teacher teacher sized)
	for form in hidden full sample; do
		teacher=(--teacher teacher)
		[ $form = hidden ] || teacher=()
		cached=$(teacher-logits -q -m teacher -f $form --draws 5000 sized | divergence $form "${teacher[@]}")
		jq -e -n --argjson a "$cached" --argjson b "$taught" --arg form $form \
			'($a - $b | fabs) < (if $form == "sample" then 0.1 else 2e-3 end) and $b > 1'
	done
}

@test "rollouts are taken, and keep their log-probabilities" {
	from-json -t rollouts <<<'{"id":"a","ids":[1,2,3],"supervised":[[1,3]],"logp":[-1,-2],"model_logp":[-1.5,-2.5]}' >rolled
	teacher-logits -q -m teacher rolled | to-json --records | jq -e '.logp == [-1, -2] and (.hidden | length) == 2'
}

@test "another form, a record type or a number that does not do is refused" {
	for arguments in '-f dense' '-f topk -k 0' '-f topk -k 51' '-f sample --draws 70000' '--micro-tokens 0' '--dtype i8'; do
		# shellcheck disable=SC2086
		run --separate-stderr teacher-logits -q -m teacher $arguments examples
		[ "$status" -eq 2 ]
	done
	run --separate-stderr teacher-logits -q examples
	[ "$status" -eq 2 ]
	run --separate-stderr teacher-logits -q -m teacher hidden
	[ "$status" -eq 1 ]
	[[ $stderr == *"logits, not tokens"* ]]
}

@test "help says that topk is biased" {
	teacher-logits --help | grep -q 'topk (biased)'
}
