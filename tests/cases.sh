# shellcheck shell=bash
# Sourced by tests that are scripts. check NAME command... is one test: PASS or FAIL and its name on stdout, which tests/run
# counts; of a failed one also its output. DMAFLOW_FILTER is an extended regular expression; tests whose name does not match
# are not run.

CASES_FAILED=0

# wanted NAME: whether the filter lets it run.
wanted() { [[ -z ${DMAFLOW_FILTER:-} || $1 =~ $DMAFLOW_FILTER ]]; }

check() {
  local name=$1 output status=0
  shift
  wanted "$name" || return 0
  # In a subshell with set -e of its own: `||` would switch it off.
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

# The last line of a script of tests.
cases_end() { ((CASES_FAILED == 0)); }
