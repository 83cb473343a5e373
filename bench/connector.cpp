// Process events: the cost of reading them, compared with raw system calls and with forkstat.
//   connector [--rounds N] [--json FILE]   storms, read while they are in progress; in tests/lab/run, as root
//   connector --count [--json FILE]        instructions for each event of a deep queue, in tests/lab/run --icount;
//                                          fails if the library costs too much compared with a plain loop of recv()
#include "raw/connector.hpp"
#include "connector_readers.hpp"
#include "count.hpp"

#include <dmaflow/process_events.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>

namespace {

using bench::require;
using dmaflow::connector::NameChange;
using dmaflow::connector::ProcessEvents;
using nlohmann::json;

// --- Instructions ----------------------------------------------------------------------------------------------------

/// A socket that receives events only while this program makes them for it.
class Ear {
 public:
  Ear() : fd_(raw::listen_to_processes(8 << 20)) {
    require(fd_ >= 0 && ::fcntl(fd_, F_SETFL, O_NONBLOCK) == 0, "no process events: run this as root in the lab");
    set_membership(false);
    std::uint64_t calls = 0;
    raw::receive_each(fd_, calls, [](const proc_event&) { return true; });  // reads the answer to LISTEN
  }
  void hear(int changes) const {
    set_membership(true);
    bench::make(bench::storm_of_names(static_cast<std::uint64_t>(changes), 0));
    set_membership(false);
  }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  void set_membership(bool is_member) const {
    const int group = CN_IDX_PROC;
    const int option = is_member ? NETLINK_ADD_MEMBERSHIP : NETLINK_DROP_MEMBERSHIP;
    require(::setsockopt(fd_, SOL_NETLINK, option, &group, sizeof group) == 0, "cannot join or leave the group");
  }
  int fd_;  // open until the program ends
};

const pid_t self = ::getpid();

using What = decltype(proc_event::what);  // declared inside proc_event in older headers, outside of it in newer ones

/// Counts only this process's events, because other programs change their names too.
bool count_own(const proc_event& event, int& read) {
  const auto what = static_cast<std::uint32_t>(event.what);
  read += what == static_cast<std::uint32_t>(What::PROC_EVENT_COMM) && event.event_data.comm.process_tgid == self;
  return true;
}

void require_all(int read, int times) { require(read == times, "events are missing"); }

// Relative to a plain loop. Instructions do not show the cost of entering the kernel, which is what the library saves.
constexpr double instructions_limit = 1.10;

bench::Operation reading() {
  constexpr int batch = 4096;  // fills 3.4 MB of the 8 MiB buffer
  const auto ours = std::make_shared<Ear>();
  dmaflow::Fd fd = dmaflow::Fd::dup_of(ours->fd()).value();
  const std::shared_ptr<ProcessEvents> events = ProcessEvents::adopt(fd, true).value();
  const auto plain = std::make_shared<Ear>();
  const auto many = std::make_shared<Ear>();
  const auto receiver = std::make_shared<raw::ManyReceiver>();
  const auto by_take = [events](int times) {
    int read = 0;
    while (const auto event = events->take().value()) {
      const auto* name = event->as<NameChange>();
      read += name != nullptr && name->task.tgid == self ? 1 : 0;
    }
    require_all(read, times);
  };
  const auto by_recv = [plain](int times) {
    int read = 0;
    std::uint64_t calls = 0;
    raw::receive_each(plain->fd(), calls, [&](const proc_event& event) { return count_own(event, read); });
    require_all(read, times);
  };
  const auto by_recvmmsg = [many, receiver](int times) {
    int read = 0;
    std::uint64_t calls = 0;
    receiver->receive(many->fd(), calls, [&](const proc_event& event) { return count_own(event, read); });
    require_all(read, times);
  };
  return {"read a process event",
          batch,
          {{"dmaflow", by_take, [ours](int times) { ours->hear(times); }},
           {"raw recv loop", by_recv, [plain](int times) { plain->hear(times); }},
           {"raw recvmmsg", by_recvmmsg, [many](int times) { many->hear(times); }}}};
}

int count(const bench::CountOptions& options) {
  bench::CountLog log{.program = "connector", .counted = "process"};
  const std::vector<bench::Operation> operations{reading()};
  const bool is_good = bench::count_instructions(operations, instructions_limit, bench::Counted::process, &log);
  log.write(options.json);
  return is_good ? 0 : 1;
}

// --- Storms ----------------------------------------------------------------------------------------------------------

struct Spread {
  double median = 0, least = 0, most = 0;
};

Spread spread_of(const std::vector<bench::Run>& runs, double (*value)(const bench::Run&)) {
  std::vector<double> values;
  for (const bench::Run& run : runs) values.push_back(value(run));
  std::ranges::sort(values);
  return {values[values.size() / 2], values.front(), values.back()};
}

/// Reads a deep queue to its end, with all readers in alternation: events per second of CPU time.
void drain(int rounds, json& rows) {
  const bench::Operation operation = reading();
  std::vector<std::vector<bench::Run>> runs(operation.ways.size());
  const auto cpu_time = [] {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
  };
  for (int round = -1; round < 5 * rounds; ++round) {
    for (std::size_t way = 0; way < operation.ways.size(); ++way) {
      operation.ways[way].prepare(operation.batch);
      const double begun = cpu_time();
      operation.ways[way].run(operation.batch);
      const double seconds = cpu_time() - begun;
      const auto events = static_cast<std::uint64_t>(operation.batch);
      if (round >= 0) runs[way].push_back({.seen = events, .seconds = seconds});
    }
  }
  std::printf("%-22s %12s %12s %12s\n", "a deep queue", "events/s", "least", "most");
  for (std::size_t way = 0; way < operation.ways.size(); ++way) {
    const auto rate =
        spread_of(runs[way], [](const bench::Run& run) { return static_cast<double>(run.seen) / run.seconds; });
    std::printf("%-22s %12.0f %12.0f %12.0f\n", operation.ways[way].name.c_str(), rate.median, rate.least, rate.most);
    rows.push_back({{"storm", "a deep queue"},
                    {"reader", operation.ways[way].name},
                    {"runs", runs[way].size()},
                    {"events", operation.batch},
                    {"events_per_second", {{"median", rate.median}, {"least", rate.least}, {"most", rate.most}}}});
  }
  std::printf("\n");
}

double rate_of(const bench::Run& run) { return run.seconds > 0 ? static_cast<double>(run.seen) / run.seconds : 0; }
double seen_of(const bench::Run& run) { return static_cast<double>(run.seen); }
double lost_of(const bench::Run& run) { return static_cast<double>(run.lost); }
double per_event(double value, const bench::Run& run) {
  return run.seen > 0 ? value / static_cast<double>(run.seen) : 0;
}
double calls_of(const bench::Run& run) { return per_event(static_cast<double>(run.calls), run); }
double cpu_of(const bench::Run& run) { return per_event(run.cpu_seconds * 1e6, run); }

json row(const bench::Storm& storm, const std::string& name, const std::vector<bench::Run>& runs) {
  const auto rate = spread_of(runs, rate_of);
  const auto seen = spread_of(runs, seen_of);
  const auto lost = spread_of(runs, lost_of);
  const auto calls = spread_of(runs, calls_of);
  const auto cpu = spread_of(runs, cpu_of);
  std::printf("%-10s %8d %-22s %8.0f %8.0f %8.0f %9.0f (%.0f to %.0f)  %9.4f %8.2f (%.2f to %.2f)\n",
              storm.name.c_str(), storm.receive_buffer >> 10, name.c_str(), static_cast<double>(storm.events),
              seen.median, lost.median, rate.median, rate.least, rate.most, calls.median, cpu.median, cpu.least,
              cpu.most);
  const auto object = [](const Spread& spread) {
    return json{{"median", spread.median}, {"least", spread.least}, {"most", spread.most}};
  };
  return {{"storm", storm.name},
          {"receive_buffer", storm.receive_buffer},
          {"reader", name},
          {"events", storm.events},
          {"runs", runs.size()},
          {"seen", object(seen)},
          {"lost", object(lost)},
          {"events_per_second", object(rate)},
          {"system_calls_per_event", object(calls)},
          {"cpu_us_per_event", object(cpu)}};
}

/// Runs all readers of one storm in alternation. True if every reported loss equals the kernel's count.
bool measure(const bench::Storm& storm, int rounds, bool with_forkstat, json& rows) {
  const auto readers = bench::readers();
  std::vector<std::vector<bench::Run>> runs(readers.size() + 1);
  for (int round = -1; round < rounds; ++round) {
    for (std::size_t i = 0; i < readers.size(); ++i) {
      const auto run = bench::run(readers[i], storm);
      if (round >= 0) runs[i].push_back(run);  // the first one warms up
    }
    if (with_forkstat && round >= 0) runs.back().push_back(bench::run_forkstat(storm, false));
  }
  bool is_exact = true;
  for (std::size_t i = 0; i < readers.size(); ++i) {
    for (const bench::Run& run : runs[i]) is_exact = is_exact && run.lost == run.drops;
    rows.push_back(row(storm, readers[i].name, runs[i]));
  }
  if (!with_forkstat) return is_exact;
  // strace counts its calls. strace slows it down, so this is a separate run. The calls of its start are subtracted.
  bench::Storm none = storm;
  none.rounds = 0;
  const auto start = bench::run_forkstat(none, true);
  const auto traced = bench::run_forkstat(storm, true);
  const double calls =
      traced.seen > 0 ? static_cast<double>(traced.calls - start.calls) / static_cast<double>(traced.seen) : 0;
  for (bench::Run& run : runs.back()) run.calls = static_cast<std::uint64_t>(calls * static_cast<double>(run.seen));
  rows.push_back(row(storm, "forkstat", runs.back()));
  return is_exact;
}

int storms(int rounds, const std::string& file) {
  json rows = json::array();
  drain(rounds, rows);
  std::printf("%-10s %8s %-22s %8s %8s %8s %9s %-20s %9s %8s\n", "storm", "KiB", "reader", "events", "seen", "lost",
              "seen/s", "", "calls/ev.", "CPU us/ev.");
  constexpr int large = 8 << 20;
  const bool with_forkstat = bench::has_forkstat();
  bool is_exact = measure(bench::storm_of_processes(2000, large), rounds, with_forkstat, rows);
  is_exact = measure(bench::storm_of_names(100'000, large), rounds, with_forkstat, rows) && is_exact;
  is_exact = measure(bench::storm_of_names(100'000, 1 << 16), rounds, false, rows) && is_exact;
  if (!with_forkstat) std::printf("without forkstat: it or strace is not installed\n");
  if (!file.empty()) std::ofstream(file) << rows.dump(1) << '\n';
  std::printf("%s\n", is_exact ? "every loss that was told is the kernel's count" : "A LOSS WAS NOT TOLD EXACTLY");
  return is_exact ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (const auto options = bench::parse_count(argc, argv)) return count(*options);
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int rounds = 7;
  std::string file;
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    const bool has_value = i + 1 < arguments.size();
    if (has_value && arguments[i] == "--rounds") {
      rounds = std::atoi(argv[i + 2]);
    } else if (has_value && arguments[i] == "--json") {
      file = arguments[i + 1];
    } else {
      rounds = 0;
    }
  }
  if (rounds < 1) {
    std::fprintf(stderr, "usage: connector [--count] [--rounds N] [--json FILE]\n");
    return 2;
  }
  return storms(rounds, file);
}
