#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_DIRNAME/../samples" || return
}

@test "the samples made anew are those that are committed" {
	for language in english spanish; do
		"$BUILD/samples/generate" $language.grammar "$BATS_TEST_TMPDIR/$language."{train,dev}.jsonl
	done
	"$BUILD/samples/programs" "$BATS_TEST_TMPDIR/"{python,bugs,thoughts}.{train,dev}.jsonl
	made=0
	for file in *.jsonl; do
		cmp "$file" "$BATS_TEST_TMPDIR/$file"
		made=$((made + 1))
	done
	[ $made -eq 10 ]
}

@test "the development files ask nothing that the training files ask" {
	for name in english spanish python bugs thoughts; do
		for split in train dev; do
			jq -c '[.instruction, .context, .summary, .fail, .prompt]' $name.$split.jsonl | sort >"$BATS_TEST_TMPDIR/$split"
			[ "$(wc -l <"$BATS_TEST_TMPDIR/$split")" -gt 50 ]
			[ -z "$(uniq -d "$BATS_TEST_TMPDIR/$split")" ]
		done
		[ -z "$(comm -12 "$BATS_TEST_TMPDIR/train" "$BATS_TEST_TMPDIR/dev")" ]
	done
}

@test "right programs pass their tests, wrong ones fail some, with the error that is named" {
	command -v python3 >/dev/null || skip "there is no python3"
	run -0 python3 - {python,bugs,thoughts}.{train,dev}.jsonl <<-'PYTHON'
	import contextlib, io, json, sys

	def results(code, tests):
	    found = []
	    for test in tests:
	        out = io.StringIO()
	        sys.stdin = io.StringIO(test["input"])
	        try:
	            with contextlib.redirect_stdout(out):
	                exec(compile(code, "program", "exec"), {})
	            lines = [[line.rstrip() for line in text.rstrip().split("\n")] for text in (out.getvalue(), test["output"])]
	            found.append("" if lines[0] == lines[1] else "wrong")
	        except Exception as e:
	            found.append(type(e).__name__)
	    return found

	programs = wrong = 0
	for path in sys.argv[1:]:
	    for line in open(path):
	        r = json.loads(line)
	        right = r.get("original_string") or r.get("pass") or r["generation"].split("```")[1].removeprefix("python\n")
	        assert not any(results(right, r["tests"])), line
	        programs += 1
	        if "fail" in r:
	            found = results(r["fail"], r["tests"])
	            error = r["error"].split(":")[0]
	            assert set(found) == {error} if error else set(found) <= {"", "wrong"} and "wrong" in found, line
	            wrong += 1
	print(programs, "programs,", wrong, "wrong ones")
	PYTHON
	[ "$output" = "3800 programs, 1100 wrong ones" ]
}

@test "a grammar that says too little is refused" {
	printf 'set A\n\tx\ntask t all\n\tfor a B\n' >"$BATS_TEST_TMPDIR/grammar"
	run -1 "$BUILD/samples/generate" "$BATS_TEST_TMPDIR/grammar" "$BATS_TEST_TMPDIR/"{train,dev}
	[ "$output" = "generate: there is no set 'B'" ]
	[ ! -e "$BATS_TEST_TMPDIR/train" ]
}
