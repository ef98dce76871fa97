#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0
load train

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	export OMP_NUM_THREADS=1
	seq 60 | jq -c '{id: "r\(.)", text: "Add \(.) and \(. * 7).", response: "It is \(. * 8).", references: ["It is \(. * 8)."]}' >all.jsonl
	train-bpe -q -n 300 --text text,response -o tokenizer all.jsonl
	echo '{"model_type":"qwen2","hidden_size":32,"num_hidden_layers":2,"num_attention_heads":2,
		"num_key_value_heads":1,"intermediate_size":64,"max_position_embeddings":128,"rms_norm_eps":1e-6,
		"tie_word_embeddings":true,"initializer_range":0.15,"dtype":"float32"}' >config.json
	init-model -q -s 1 --tokenizer tokenizer -o model config.json
	init-model -q -s 2 --tokenizer tokenizer -o other config.json
	tokenize -q -m model --text text all.jsonl | to-json |
		jq -c 'if .header then . else .supervised = [[(.ids | length), (.ids | length)]] end' |
		from-json -o prompts.zst
	rollout -q -m model -n 8 --max-tokens 12 prompts.zst | reward rouge=1 -o rewards.zst
	to-json rewards.zst >rewards.jsonl
	# one prompt, three tokens that earn 1 and one that earns 0
	jq -c 'if .header then . else empty end' rewards.jsonl >hand.jsonl
	jq -nc '{id: "a", ids: [7, 8, 9, 10, 11], supervised: [[2, 5]], logp: [-1, -1, -1], model_logp: [-1, -1, -1],
			finish: "stop", completion: "", rewards: {rouge: 1}},
		{id: "a", ids: [7, 8, 12], supervised: [[2, 3]], logp: [-2], model_logp: [-2], finish: "length",
			completion: "", rewards: {rouge: 0}}' >>hand.jsonl
}

setup() {
	cp -r "$BATS_FILE_TMPDIR/." "$BATS_TEST_TMPDIR"
	cd "$BATS_TEST_TMPDIR" || exit
	export OMP_NUM_THREADS=1
}

# what must not depend on when the run was stopped
metrics() {
	jq -c 'del(.seconds, .tokens_per_second, .peak_bytes) | with_entries(select(.key | startswith("seconds/") | not))' "$1/metrics.jsonl"
}

# the first line of metrics of a step on hand.jsonl or what a jq program makes of it
step() {
	local program=$1
	shift
	rm -rf run
	jq -c "$program" hand.jsonl | from-json >hand.zst
	grpo-step -q -m model -o run --tolerance 0 --old self "$@" hand.zst
	head -1 run/metrics.jsonl
}

# refused PROGRAM MESSAGE: what a jq program makes of the hand's stream is refused
refused() {
	rm -rf run
	jq -c "$1" hand.jsonl | from-json >bad.zst
	run --separate-stderr grpo-step -q -m model -o run --tolerance 0 bad.zst
	[ "$status" -eq 1 ] && [[ "$stderr" == *"$2"* ]] || { echo "$1: $status $stderr"; return 1; }
}

loop() {
	rollout -q --follow "$1" -n 4 --batch 4 --max-tokens 8 "${@:2}" prompts.zst | reward rouge=1 length=0.1:max=9 -m model |
		grpo-step -q -m model -o "$1" --lr 3e-3 --steps 30 --save-every 4
}

@test "a step is that of paper and pencil" {
	# A = 0.5 / (sqrt(0.5) + 1e-4) and its opposite; all ratios are 1
	step . --beta 0 | jq -e '(0.5 / ((0.5 | sqrt) + 1e-4)) as $a |
		(.loss | fabs) < 1e-7 and (.advantage - $a | fabs) < 1e-7 and .reward == 0.5 and
		(.reward_std - (0.5 | sqrt) | fabs) < 1e-7 and .frac_reward_zero_std == 0 and .grad_norm > 0.01 and
		."completions/mean_length" == 2 and ."completions/min_length" == 1 and
		."completions/max_length" == 3 and ."completions/clipped_ratio" == 0.5 and .targets == 4'
	step . --beta 0 --loss dapo | jq -e '(0.5 / ((0.5 | sqrt) + 1e-4)) as $a | (.loss + $a / 2 | fabs) < 1e-7'
	# no deviation, and the constant: (3 - 1) / 2 of 0.5 / (2 x 10)
	step . --beta 0 --loss dr-grpo --max-completion 10 | jq -e '(.loss + 0.05 | fabs) < 1e-7 and .advantage == 0.5'
	step . --beta 0 --loss dapo --drop-truncated | jq -e '(0.5 / ((0.5 | sqrt) + 1e-4)) as $a |
		(.loss + $a | fabs) < 1e-7 and .targets == 3'
}

@test "a reward that is null leaves the group" {
	step 'if .id and (.ids | length) == 3 then .rewards.rouge = null else . end' --beta 0 |
		jq -e '.advantage == 0 and .reward == 1 and (has("reward_std") | not) and .frac_reward_zero_std == 1 and .grad_norm == 0'
	step 'if .id then .rewards.rouge = null else . end' --beta 0.04 |
		jq -e '(has("reward") | not) and .advantage == 0 and .kl == 0 and .targets == 4'
	step 'if .id then .rewards.rouge = 0.1 else . end' --skip-zero-std |
		jq -e '.advantage == 0 and .targets == 0 and .grad_norm == 0 and .frac_reward_zero_std == 1'
}

@test "what the first update changed is clipped in the others" {
	grpo-step -q -m model -o run --lr 1e-2 --steps 1 --inner 4 --old self rewards.zst
	jq -e '."clip_ratio/low_mean" > 0.01 and ."clip_ratio/high_mean" > 0.01 and .kl > 0' run/metrics.jsonl
	grpo-step -q -m model -o first --lr 1e-2 --steps 1 --old self rewards.zst
	jq -e '."clip_ratio/low_mean" == 0 and ."clip_ratio/high_mean" == 0 and .kl == 0' first/metrics.jsonl
}

@test "micro-batches change the rounding alone" {
	for loss in grpo dapo; do
		for n in 24 100 4096; do
			rm -rf run$n
			grpo-step -q -m model -o run$n --steps 2 --lr 1e-3 --loss $loss --micro-tokens $n rewards.zst
		done
		for n in 24 100; do
			jq -es '([.[0, 1].grad_norm] | .[0] / .[1] - 1 | fabs) < 1e-5 and (.[0].loss - .[1].loss | fabs) < 1e-6 and
				(.[0].kl - .[1].kl | fabs) < 1e-6 and .[0].targets == .[1].targets' \
				<(tail -1 run$n/metrics.jsonl) <(tail -1 run4096/metrics.jsonl)
		done
	done
}

@test "threads change no byte" {
	grpo-step -q -j 1 -m model -o one --steps 3 --lr 1e-3 rewards.zst
	grpo-step -q -j 2 -m model -o two --steps 3 --lr 1e-3 rewards.zst
	same_run one two
}

@test "killed at any moment, a run ends as if it never was" {
	local options="--lr 1e-3 --batch 8 --save-every 5 --inner 3 --micro-tokens 60"
	for type in f32 bf16; do
		grpo-step -q -m model -o whole.$type --dtype $type $options rewards.zst
		until_done cut.$type "grpo-step -q -m model -o cut.$type --dtype $type $options rewards.zst"
		same_run whole.$type cut.$type
	done
	grpo-step -q -m model -o pipe --dtype f32 $options < <(cat rewards.zst)
	same_run whole.f32 pipe
}

@test "in the loop, rewards rise" {
	loop run
	jq -es 'length == 30 and (map(.reward) | (.[-5:] | add / 5) > (.[:5] | add / 5) + 0.05) and
		([.[].version] == [range(30)]) and .[29]."rewards/rouge/mean" != null and
		(map(."seconds/generate" > 0 and ."seconds/judge" > 0 and ."seconds/train" > 0 and ."seconds/publish" > 0) | all)' run/metrics.jsonl
	jq -e .step run/policy/run.json
}

@test "the loop, killed at any moment, ends as if it never was" {
	loop whole
	until_done cut "$(declare -f loop); loop cut"
	same_run whole cut
}

@test "and with a lag" {
	loop whole --lag 2
	jq -es '[.[].version] == [0, 0, range(28)]' whole/metrics.jsonl
	until_done cut "$(declare -f loop); loop cut --lag 2"
	same_run whole cut
}

@test "when one of the loop dies, all end, and say so" {
	for victim in rollout reward grpo-step; do
		rm -rf run
		setsid bash -o pipefail -c "$(declare -f loop); loop run" 2>log &
		pid=$!
		until [ "$(jq -s length run/metrics.jsonl 2>/dev/null || echo 0)" -ge 3 ]; do sleep 0.02; done
		kill -9 "$(pgrep -g $pid -x $victim)"
		status=0
		wait $pid || status=$?
		[ "$status" -ne 0 ]
		[ -z "$(pgrep -g $pid)" ]
		grep -Eq '^(rollout|reward|grpo-step): ' log || { echo "$victim: nobody said why"; false; }
	done
}

@test "what the loop's rollouts said can be learned from again, to the same bytes" {
	rollout -q --follow run -n 4 --batch 4 --max-tokens 8 prompts.zst | reward rouge=1 | tee kept.zst |
		grpo-step -q -m model -o run --lr 3e-3 --steps 6
	grpo-step -q -m model -o again --lr 3e-3 --steps 6 kept.zst
	cmp run/model/model.safetensors again/model/model.safetensors
	[ ! -e again/policy ]
}

@test "a finished loop ends at once" {
	rollout -q --follow run -n 2 --batch 2 --max-tokens 4 prompts.zst | reward rouge=1 |
		grpo-step -q -m model -o run --steps 2
	cp run/model/model.safetensors before
	rollout -q --follow run -n 2 --batch 2 --max-tokens 4 prompts.zst | reward rouge=1 |
		grpo-step -q -m model -o run --steps 2
	cmp before run/model/model.safetensors
}

@test "a reference in the stream is one in memory" {
	# the reference is the model that drew
	to-json rewards.zst | jq -c 'if .header then .header.fields += [{name: "ref_logp", dtype: "f32", shape: []}]
		else .ref_logp = .model_logp end' | from-json >with.zst
	grpo-step -q -m model -o run --steps 3 --lr 1e-3 rewards.zst
	grpo-step -q -m model -o with --steps 3 --lr 1e-3 --reference nowhere with.zst
	jq -es '(.[0].kl > 1e-5) and (.[0].kl / .[1].kl - 1 | fabs) < 1e-3 and (.[0].grad_norm / .[1].grad_norm - 1 | fabs) < 1e-3' \
		<(tail -1 run/metrics.jsonl) <(tail -1 with/metrics.jsonl)
	grpo-step -q -m model -o other.run --steps 1 --reference other rewards.zst
	jq -e '.kl > 0.1' other.run/metrics.jsonl
}

@test "rollouts of another model are found out, with the numbers" {
	run --separate-stderr grpo-step -q -m other -o run rewards.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" =~ "was not drawn from this model: log-probabilities differ by up to "[0-9.]+", in record 'r"[0-9]+"', token "[0-9]+ ]]
	grpo-step -q -m other -o trusted --steps 1 --tolerance 0 rewards.zst
}

@test "temperature and filters of the rollouts are known" {
	for options in "--temperature 0.7" "--top-p 0.5" "-k 5"; do
		rm -rf run
		rollout -q -m model -n 4 --max-tokens 8 $options prompts.zst | reward rouge=1 | grpo-step -q -m model -o run --steps 1
		# drawn from this model: the ratio is 1, to rounding
		jq -e '(.loss | fabs) < 1e-5 and ."clip_ratio/low_mean" == 0 and ."clip_ratio/high_mean" == 0' run/metrics.jsonl
	done
	rollout -q -m model -n 2 --greedy prompts.zst | reward rouge=1 >greedy.zst
	run --separate-stderr grpo-step -q -m model -o greedy greedy.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"'greedy.zst' was drawn greedily"* ]]
}

@test "--like trl sets what TRL has, and both say what they set" {
	run --separate-stderr grpo-step -m model -o run --steps 1 rewards.zst
	[[ "$stderr" == *"--loss grpo"*"--epsilon 0.2"*"--beta 0.04"*"--kl k3 "* ]]
	run --separate-stderr grpo-step -m model -o trl --like trl --steps 1 rewards.zst
	[[ "$stderr" == *"--loss dapo"*"--beta 0"*"--kl k3-ratio"*"--tis-cap 3 --tis-mode sequence-mask"* ]]
	jq -e 'has("kl") | not' trl/metrics.jsonl
	run --separate-stderr grpo-step -m model -o mine --like trl --beta 0.1 --loss cispo --steps 1 rewards.zst
	[[ "$stderr" == *"--loss cispo"*"--beta 0.1"* ]]
}

@test "every loss can be learned by" {
	for options in "--loss grpo" "--loss dapo --epsilon-high 0.28" "--loss dr-grpo" "--loss luspo --ratio sequence" "--loss cispo" \
		"--loss sapo" "--ratio sequence --epsilon 0.0003 --epsilon-high 0.0004" "--scale batch" "--kl k2" "--like trl"; do
		rm -rf run
		rollout -q --follow run -n 8 --batch 4 --max-tokens 8 prompts.zst | reward rouge=1 |
			grpo-step -q -m model -o run --lr 3e-3 --steps 25 $options
		jq -es 'map(.reward) | (.[-5:] | add) > (.[:5] | add)' run/metrics.jsonl || { echo "$options"; false; }
	done
}

@test "a stream that cannot be learned from is refused by the record's name" {
	refused 'del(.header.rewards)' "names no rewards"
	refused 'del(.header.sampling)' "at which temperature"
	refused 'if .id then del(.rewards.rouge) else . end' "record 'a' has no reward rouge"
	refused 'if .id then .rewards.rouge = "1" else . end' "record 'a' has no reward rouge"
	refused 'if .id then del(.finish) else . end' "record 'a' does not say how it ended"
	refused 'if .id then .logp += [-1] else . end' "record 'a' has not one logp for each of the 3 tokens"
	refused 'if .id then .model_logp[0] = 3 else . end' "record 'a' has a token whose model_logp is 3"
	refused 'if .id then .supervised = [[0, (.ids | length)]] else . end' "record 'a' is not a prompt and one reply"
	refused 'if .id then .supervised[0][1] -= 1 else . end' "record 'a' is not a prompt and one reply"
	refused 'if .id then .ids[1] = 99999 else . end' "record 'a' has the id 99999"
	refused 'if .id and (.ids | length) == 3 then .ids[0] = 9 else . end' "two records 'a' of one step have different prompts"
	refused 'if .header then .header.batch = 2 else . end' "record 'a' has no step"
	refused 'if .header then .header.batch = 2 else .step = 3 | .version = 0 end' "record 'a' is of step 3, where 0 is to be done"
	refused 'if .header then .header.batch = 5 else .step = 0 | .version = 0 end' "ends inside of step 0, after 2 of 5 records"
	refused 'if .header then . else empty end' "has nothing to learn"
}

@test "a loss that is not finite stops the run with step and record, the last state kept" {
	run --separate-stderr grpo-step -q -m model -o run --lr 1e30 --clip 0 --eps 1e-30 --save-every 1 rewards.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" =~ "not finite at step "[0-9]+.*"'r"[0-9]+"'" ]]
	complete run/state/state.safetensors
}

@test "misuse exits 2" {
	for options in "" "-m model" "-o run" "-m model -o run --loss ppo" "-m model -o run --ratio word" "-m model -o run --epsilon -1" \
		"-m model -o run --epsilon 1.5" "-m model -o run --beta -1" "-m model -o run --inner 0" "-m model -o run --like verl" \
		"-m model -o run --kl k4" "-m model -o run --tis-cap 2 --old stream" "-m model -o run --delta 0.5" \
		"-m model -o run --tis-mode none" "-m model -o run --batch 0"; do
		run grpo-step $options rewards.zst
		[ "$status" -eq 2 ] || { echo "$options: $status"; false; }
	done
}
