#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

lines() {
	printf '%s\n' "$@"
}

@test "mean and standard deviation are taken over seeds, with n - 1" {
	result=$(lines '{"seed":1,"prediction":"a b","target":"a b"}' '{"seed":1,"prediction":"x","target":"a"}' \
		'{"seed":2,"prediction":"a","target":"a b"}' '{"seed":2,"prediction":"a","target":"a"}' | rouge)
	# runs: (100 + 0) / 2 = 50 and (200/3 + 100) / 2 = 250/3
	jq -e '(.rouge_l.mean - 200/3 | fabs) < 1e-6 and (.rouge_l.std - 100/3 / (2 | sqrt) | fabs) < 1e-6' <<<"$result"
	jq -e '.exact_match == {"mean":50,"std":0} and .records == 4 and ([.runs[].seed] == [1, 2])' <<<"$result"
}

@test "a single run has no deviation, and is said to be comparable" {
	result=$(lines '{"prediction":"a","target":"a"}' | rouge)
	jq -e '.rouge_l == {"mean":100,"std":null} and .stopped == null and .comparable and .mode == "google"' <<<"$result"
}

@test "several predictions of a record are runs of their own" {
	result=$(lines '{"completion":["a","b"],"references":["a","c"]}' '{"completion":["c","c"],"references":"c"}' | rouge)
	jq -e '[.runs[] | [.sample, .rouge_l]] == [[0, 100], [1, 50]]' <<<"$result"
}

@test "operands without seeds are runs of their own, and seeds join what was cut apart" {
	lines '{"prediction":"a","target":"a"}' >"$BATS_TEST_TMPDIR/one"
	lines '{"prediction":"b","target":"a"}' >"$BATS_TEST_TMPDIR/two"
	lines '{"seed":1,"prediction":"b","target":"a"}' >"$BATS_TEST_TMPDIR/three"
	jq -e '[.runs[].rouge_l] == [100, 0]' <<<"$(rouge "$BATS_TEST_TMPDIR/one" "$BATS_TEST_TMPDIR/two")"
	jq -e '[.runs[].rouge_l] == [50]' <<<"$(rouge "$BATS_TEST_TMPDIR/one" - <"$BATS_TEST_TMPDIR/three")"
}

@test "each prediction has its scores, times 100" {
	result=$(lines '{"id":"q7","prediction":"the cats sat","references":["no","the cat lay down"]}' | rouge --each)
	jq -e '.id == "q7" and (.precision - 200/3 | fabs) < 1e-6 and .recall == 50 and .exact_match == 0' <<<"$result"
	jq -e '(.rouge_l - 400/7 | fabs) < 1e-6' <<<"$result"
}

@test "--unicode counts words that the other mode cannot see, and says that it does not compare" {
	line='{"prediction":"東京","target":"東京都"}'
	jq -e '.rouge_l.mean == 0' <<<"$(lines "$line" | rouge)"
	jq -e '(.rouge_l.mean - 80 | fabs) < 1e-6 and .comparable == false' <<<"$(lines "$line" | rouge -u)"
}

@test "the share of predictions that ended by themselves" {
	result=$(lines '{"prediction":"a","target":"a","finish":"stop"}' '{"prediction":"a","target":"a","finish":"length"}' \
		'{"prediction":"a","target":"a"}' | rouge)
	jq -e '.stopped == 50' <<<"$result"
}

@test "a stream of rollouts gives what its text gives as JSON lines, from a file and from a pipe" {
	cd "$BATS_TEST_TMPDIR"
	for i in $(seq 0 99); do
		lines "{\"id\":\"$i\",\"sample\":$((i % 2)),\"completion\":\"a b $i\",\"target\":\"a $((i % 7)) b\",\"finish\":\"stop\"}"
	done >lines
	{
		lines '{"header":{"type":"rollouts","seed":20}}'
		jq -c '. + {ids:[1,2],supervised:[[1,2]],logp:[-1],model_logp:[-1]}' lines
	} | from-json >stream
	jq -c '. + {seed:20}' lines | rouge >expected
	rouge stream | diff expected -
	cat stream | rouge | diff expected -
	rouge <stream | diff expected -
	jq -e '[.runs[].records] == [50, 50]' expected
}

@test "any number of threads gives the same bytes" {
	for i in $(seq 5000); do
		lines "{\"id\":$i,\"prediction\":\"running $i quickly w$((i % 13))\",\"target\":\"runs w$((i % 11)) quick\"}"
	done >"$BATS_TEST_TMPDIR/lines"
	for option in '' --each -u; do
		rouge -j 1 $option "$BATS_TEST_TMPDIR/lines" >"$BATS_TEST_TMPDIR/one"
		rouge -j 3 $option "$BATS_TEST_TMPDIR/lines" | cmp - "$BATS_TEST_TMPDIR/one"
	done
}

@test "blank lines are passed over, a last line needs no end" {
	jq -e '.records == 2' <<<"$(printf '\n  \n{"prediction":"a","target":"a"}\n\n{"prediction":"a","target":"a"}' | rouge)"
}

@test "what cannot be scored is named by its line, and nothing is printed" {
	good='{"prediction":"a","target":"a"}'
	for bad in '{' '{"prediction":1,"target":"a"}' '{"prediction":"a"}' '{"prediction":"a","references":[]}' \
		'{"prediction":[],"target":"a"}' '[]' '{"prediction":"a","references":["a",null]}' '{"prediction":"\ud800","target":"a"}'; do
		run --separate-stderr rouge <<<"$good
$bad"
		[ "$status" = 1 ] && [ -z "$output" ] || { echo "$bad: $status $output"; false; }
		[[ "$stderr" == "rouge: <stdin>, line 2: "* ]] || { echo "$bad: $stderr"; false; }
	done
}

@test "a pipe with a name is opened once" {
	mkfifo "$BATS_TEST_TMPDIR/pipe"
	for line in '' '{"prediction":"a","target":"a"}'; do
		printf %s "$line" >"$BATS_TEST_TMPDIR/pipe" &
		timeout 20 rouge "$BATS_TEST_TMPDIR/pipe" >"$BATS_TEST_TMPDIR/out" 2>&1 || [ $? -eq 1 ]
	done
	jq -e '.records == 1' "$BATS_TEST_TMPDIR/out"
}

@test "no input at all is an error" {
	run -1 rouge </dev/null
	[ "$output" = "rouge: <stdin> is empty" ]
	run -1 rouge <<<''
	[ "$output" = "rouge: nothing to score" ]
	run -1 rouge /nonexistent
	[ "$output" = "rouge: cannot open '/nonexistent': No such file or directory" ]
}
