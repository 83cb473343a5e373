# shellcheck shell=bash
# Sourced by tests that are scripts. check NAME command... runs one test: it prints PASS or FAIL and its name to stdout,
# which tests/run counts, and the output of a failed test. DMAFLOW_FILTER is an extended regular expression; tests whose
# name does not match it are not run.

CASES_FAILED=0

# wanted NAME: whether the filter selects this test.
wanted() { [[ -z ${DMAFLOW_FILTER:-} || $1 =~ $DMAFLOW_FILTER ]]; }

check() {
  local name=$1 output status=0
  shift
  wanted "$name" || return 0
  # In a subshell with its own set -e: `||` would disable it.
  set +e
  output=$( (set -e; "$@") 2>&1 </dev/null)
  status=$?
  set -e
  if ((status == 0)); then
    echo "PASS $name"
  else
    echo "FAIL $name"
    printf '%s\n' "$output" "(status $status)" | sed 's/^/    /'
    CASES_FAILED=$((CASES_FAILED + 1))
  fi
}

# The last line of each script of tests.
cases_end() { ((CASES_FAILED == 0)); }
