// Runs programs that show cameras, all at the same time, and measures them from outside, whatever they use.
//
//     outside --out FILE [options] -- PROGRAM ARGUMENT... [--- PROGRAM ARGUMENT...]...
//
// dmaflow-measure follows one program through its whole stream and traces every call. This program measures the middle
// of the stream, in two windows one after the other. In the first nothing is traced: the kernel counts (perf's counters
// on tracepoints, all threads of a program), and this process sleeps, so that measuring does not add to the programs'
// cost. In the second, which is short, the kernel's trace gives the latency of each frame and the calls by name. Then
// it takes pictures of the screen and ends the programs. Needs root.
#include "outside_counters.hpp"
#include "outside_trace.hpp"

#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

using nlohmann::json;

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct Options {
  std::string out;
  double seconds = 4;
  double trace = 1.5;
  double deadline = 20;
  std::uint64_t warm_up = 30;
  std::vector<std::string> shots;
  std::vector<std::string> words;
};

struct Program {
  std::vector<std::string> command;
  pid_t process = -1;
  int go = -1;      // a byte is written here when it may begin
  int output = -1;  // a memfd with its output
  std::optional<int> status;
  std::optional<outside::ProcessCounters> counters;
};

std::vector<Program> programs_of(const std::vector<std::string>& words) {
  std::vector<Program> programs(1);
  for (const std::string& word : words) {
    if (word == "---") {
      programs.emplace_back();
    } else {
      programs.back().command.push_back(word);
    }
  }
  return programs;
}

[[noreturn]] void give_up(const std::string& why) {
  fmt::print(stderr, "error: {}\n", why);
  std::exit(2);  // NOLINT(concurrency-mt-unsafe): there is one thread
}

[[noreturn]] void become(const Program& program, int go) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(program.output, STDOUT_FILENO);
  ::dup2(program.output, STDERR_FILENO);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);  // NOLINT(concurrency-mt-unsafe): there is one thread
  // Background jobs of a shell ignore SIGINT, and the program would inherit that.
  ::signal(SIGINT, SIG_DFL);
  std::vector<std::string> words = program.command;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  char byte = 0;
  if (::read(go, &byte, 1) != 1) ::_exit(125);
  ::execvp(arguments[0], arguments.data());
  fmt::print(stderr, "error: {}: {}\n", arguments[0], std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  std::fflush(stderr);
  ::_exit(127);
}

/// The program waits for a byte, so that its counters exist before its first call.
void start(Program& program) {
  int go[2];
  program.output = ::memfd_create("output", MFD_CLOEXEC);
  if (program.output < 0 || ::pipe2(go, O_CLOEXEC) != 0) give_up("no descriptors");
  program.process = ::fork();
  if (program.process == 0) {
    ::close(go[1]);  // otherwise the child would never see the end of the pipe
    become(program, go[0]);
  }
  if (program.process < 0) give_up("no process");
  ::close(go[0]);
  program.go = go[1];
  auto counters = outside::ProcessCounters::open(program.process);
  if (!counters) give_up(counters.error());
  program.counters = std::move(*counters);
}

/// The running programs. Ends them in every case when it is destroyed.
class Programs {
 public:
  explicit Programs(std::vector<Program>& all) : all_(all) {
    sigset_t wanted;
    ::sigemptyset(&wanted);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::sigaddset(&wanted, signal);
    ::sigprocmask(SIG_BLOCK, &wanted, nullptr);  // NOLINT(concurrency-mt-unsafe): there is one thread
    signals_ = ::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  Programs(const Programs&) = delete;
  Programs& operator=(const Programs&) = delete;
  ~Programs() {
    for (const Program& program : all_) {
      if (program.process > 0 && !program.status) {
        ::kill(program.process, SIGKILL);
        ::waitpid(program.process, nullptr, 0);
      }
    }
    ::close(signals_);
  }
  /// Sleeps until @p end. False as soon as a program has ended or this one was asked to end.
  bool sleep_until(Clock::time_point end) {
    while (true) {
      if (!reap()) return false;
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
      if (left <= 0) return true;
      pollfd wait = {signals_, POLLIN, 0};
      ::poll(&wait, 1, static_cast<int>(left));
    }
  }
  /// Asks the programs to end, and kills those that do not.
  void finish() {
    for (const int signal : {SIGINT, SIGKILL}) {
      const auto end = Clock::now() + std::chrono::seconds(5);
      for (const Program& program : all_) {
        if (!program.status) ::kill(program.process, signal);
      }
      while (Clock::now() < end && std::ranges::any_of(all_, [](const Program& one) { return !one.status; })) {
        pollfd wait = {signals_, POLLIN, 0};
        ::poll(&wait, 1, 100);
        reap();
      }
    }
  }
  [[nodiscard]] bool told_to_end() const { return told_to_end_; }

 private:
  bool reap() {
    signalfd_siginfo signal = {};
    while (::read(signals_, &signal, sizeof signal) == sizeof signal) {
      told_to_end_ = told_to_end_ || signal.ssi_signo != SIGCHLD;
    }
    bool all_run = true;
    for (Program& program : all_) {
      int status = 0;
      if (!program.status && ::waitpid(program.process, &status, WNOHANG) == program.process) {
        program.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      all_run = all_run && !program.status;
    }
    return all_run && !told_to_end_;
  }

  std::vector<Program>& all_;
  int signals_ = -1;
  bool told_to_end_ = false;
};

json distribution(std::vector<double> seconds) {
  if (seconds.empty()) return nullptr;
  std::ranges::sort(seconds);
  const auto rank = [&](double percent) {
    const auto at = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(seconds.size())));
    return seconds[std::clamp<std::size_t>(at, 1, seconds.size()) - 1] * 1e3;
  };
  return {{"p50", rank(50)}, {"p99", rank(99)}, {"count", seconds.size()}};
}

std::string said(const Program& program) {
  std::string text(16384, '\0');
  const ssize_t size = ::pread(program.output, text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return text;
}

/// The difference between two readings.
json difference(const outside::ProcessCounts& from, const outside::ProcessCounts& to) {
  return {{"calls", to.calls - from.calls},
          {"frames", to.frames - from.frames},
          {"cpu_ns", to.cpu_ns - from.cpu_ns},
          {"user_s", to.user_s - from.user_s},
          {"system_s", to.system_s - from.system_s}};
}

class Measurement {
 public:
  Measurement(const Options& options, std::vector<Program>& programs)
      : options_(options), programs_(programs), run_(programs) {}

  /// Empty on success, else the reason for the failure.
  std::string take() {
    for (Program& program : programs_) start(program);
    auto flips = outside::GuestCounters::open();
    if (!flips) give_up(flips.error());
    for (Program& program : programs_) {
      [[maybe_unused]] const auto told = ::write(program.go, "", 1);
    }
    if (!warm_up()) return why_;
    if (!count(*flips) || !trace() || !pictures()) return "it ended by itself";
    return "";
  }
  /// Ends the programs and returns the complete result.
  json finish(const std::string& why) {
    run_.finish();
    result_["failed"] = why;
    for (std::size_t i = 0; i < programs_.size(); ++i) {
      json& one = result_["programs"][i];
      one["command"] = programs_[i].command;
      one["status"] = programs_[i].status.value_or(-1);
      one["said"] = said(programs_[i]);
    }
    return result_;
  }
  [[nodiscard]] bool told_to_end() const { return run_.told_to_end(); }

 private:
  bool warm_up() {
    const auto end = Clock::now() + Seconds(options_.deadline);
    const auto is_warm = [&](const Program& program) { return program.counters->now().frames >= options_.warm_up; };
    while (!std::ranges::all_of(programs_, is_warm)) {
      if (Clock::now() >= end) {
        why_ = fmt::format("fewer than {} frames in {:g} s", options_.warm_up, options_.deadline);
        return false;
      }
      if (!run_.sleep_until(Clock::now() + std::chrono::milliseconds(50))) {
        why_ = "it ended by itself";
        return false;
      }
    }
    return true;
  }

  [[nodiscard]] std::vector<std::int64_t> descriptors() const {
    std::vector<std::int64_t> all;
    for (const Program& program : programs_) all.push_back(program.counters->descriptors());
    return all;
  }

  bool count(const outside::GuestCounters& guest) {
    const auto threads_before = outside::kernel_threads();
    const auto descriptors_before = descriptors();
    // The CPU time for these readings is accounted when this process sleeps, so it sleeps before the window.
    if (!run_.sleep_until(Clock::now() + std::chrono::milliseconds(5))) return false;
    const outside::GuestCounts guest_before = guest.now();
    std::vector<outside::ProcessCounts> before;
    for (const Program& program : programs_) before.push_back(program.counters->now());
    const auto began = Clock::now();
    if (!run_.sleep_until(began + std::chrono::duration_cast<Clock::duration>(Seconds(options_.seconds)))) return false;
    std::vector<outside::ProcessCounts> after;
    for (const Program& program : programs_) after.push_back(program.counters->now());
    const double elapsed = Seconds(Clock::now() - began).count();
    const outside::GuestCounts guest_after = guest.now();
    const auto threads_after = outside::kernel_threads();
    const auto descriptors_after = descriptors();
    for (std::size_t i = 0; i < programs_.size(); ++i) {
      json& counted = result_["programs"][i]["counted"];
      counted = difference(before[i], after[i]);
      counted["descriptors"] = descriptors_after[i];
      counted["more_descriptors"] = descriptors_after[i] - descriptors_before[i];
    }
    result_["guest"] = {{"elapsed_s", elapsed},
                        {"busy_s", guest_after.busy_s - guest_before.busy_s},
                        {"flips", guest_after.flips - guest_before.flips},
                        {"threads_s", outside::spent(threads_before, threads_after)}};
    return true;
  }

  bool trace() {
    if (options_.trace <= 0) return true;
    std::vector<pid_t> processes;
    for (const Program& program : programs_) processes.push_back(program.process);
    auto trace = outside::Trace::start(processes);
    if (!trace) {
      result_["not_traced"] = trace.error();
      return true;
    }
    const auto end = Clock::now() + Seconds(options_.trace);
    while (Clock::now() < end) {
      if (!run_.sleep_until(Clock::now() + std::chrono::milliseconds(100))) return false;
      (*trace)->collect();
    }
    const outside::Traced& traced = (*trace)->finish();
    for (std::size_t i = 0; i < programs_.size(); ++i) {
      const outside::TracedProgram& one = traced.programs[i];
      result_["programs"][i]["traced"] = {{"frames", one.frames},
                                          {"shown", one.commits.size()},
                                          {"by_name", one.by_name},
                                          {"latency_ms", distribution(one.latencies)}};
    }
    result_["traced"] = {{"flips", traced.flips.size()}, {"lost", traced.lost}};
    return true;
  }

  /// Takes the pictures one after the other; the programs continue meanwhile.
  bool pictures() {
    for (const std::string& command : options_.shots) {
      [[maybe_unused]] const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe,cert-env33-c)
      if (!run_.sleep_until(Clock::now() + std::chrono::milliseconds(300))) return false;
    }
    return true;
  }

  const Options& options_;
  std::vector<Program>& programs_;
  Programs run_;
  std::string why_;
  json result_ = json::object();
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures programs that show cameras, all at once, from outside.");
  app.add_option("--out", options.out, "the figures, as JSON")->required();
  app.add_option("--seconds", options.seconds, "that are counted (default 4)")->check(CLI::PositiveNumber);
  app.add_option("--trace", options.trace, "seconds that are traced after it, for the latency (default 1.5)");
  app.add_option("--deadline", options.deadline, "seconds until frames move (default 20)")->check(CLI::PositiveNumber);
  app.add_option("--warm-up", options.warm_up, "frames of each before it begins (default 30)");
  app.add_option("--shot", options.shots, "a command to run at the end, while frames move; repeatable")
      ->allow_extra_args(false);
  app.add_option("program", options.words, "and its arguments; further ones after ---")->required();
  app.positionals_at_end();
  CLI11_PARSE(app, argc, argv);

  std::vector<Program> programs = programs_of(options.words);
  Measurement measurement(options, programs);
  const std::string why = measurement.take();
  const json result = measurement.finish(why);
  if (measurement.told_to_end()) return 130;
  std::ofstream out(options.out);
  out << result.dump(1, ' ', false, json::error_handler_t::replace) << '\n';
  if (!out.flush()) give_up("cannot write " + options.out);
}
