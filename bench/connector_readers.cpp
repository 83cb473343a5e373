#include "connector_readers.hpp"

#include "operation.hpp"
#include "raw/connector.hpp"
#include "sys/sys.hpp"

#include <dmaflow/process_events.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <new>

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

namespace bench {
namespace {

using namespace dmaflow::connector;
using namespace std::chrono_literals;

constexpr auto silence = 300ms;  // without events for this long after the storm, no more will arrive

void sleep_for(std::chrono::nanoseconds time) {
  const timespec left{.tv_sec = time / 1s, .tv_nsec = (time % 1s).count()};
  ::clock_nanosleep(CLOCK_MONOTONIC, 0, &left, nullptr);
}

/// The storm runs on the first processor, the reader on the last.
void go_to(std::size_t cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}
std::size_t last_cpu() { return static_cast<std::size_t>(::sysconf(_SC_NPROCESSORS_ONLN)) - 1; }

double cpu_of(const rusage& usage) {
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// --- The library -----------------------------------------------------------------------------------------------------

class CountCalls : public dmaflow::sys::Hook {
 public:
  int before(const dmaflow::sys::Call& /*call*/) noexcept override {
    ++calls;
    return proceed;
  }
  std::uint64_t calls = 0;
};

bool is_of(pid_t storm, const ProcessEvent& event) {
  if (const auto* name = event.as<NameChange>()) return name->task.tgid == storm;
  if (const auto* fork = event.as<Fork>()) return fork->parent.tgid == storm;
  const auto* exit = event.as<Exit>();
  return exit != nullptr && exit->parent.tgid == storm;
}

std::unique_ptr<ProcessEvents> open(const Storm& storm) {
  auto events = ProcessEvents::open({.events = static_cast<ProcessEventMask>(storm.mask),
                                     .receive_buffer = static_cast<std::uint32_t>(storm.receive_buffer)});
  require(events.has_value(), "there are no process events here: run this in the lab, as root");
  return std::move(*events);
}

void take_one(const ProcessEvent& event, Shared& shared) {
  if (const auto* lost = event.as<Lost>()) shared.lost += lost->count;
  if (is_of(shared.storm, event)) ++shared.seen;
}

void finish(const ProcessEvents& events, std::uint64_t calls, Shared& shared) {
  shared.calls = calls;
  dmaflow::sys::set_hook(nullptr);
  shared.drops = events.drops().value_or(0);
}

/// Reads as soon as an event arrives.
void read_at_once(const Storm& storm, Shared& shared) {
  const auto events = open(storm);
  CountCalls calls;
  dmaflow::sys::set_hook(&calls);
  shared.is_ready = true;
  while (true) {
    const auto event = events->wait(dmaflow::Deadline::after(silence));
    if (!event && shared.is_over) break;
    if (!event) continue;
    take_one(*event, shared);
    shared.last = now();
  }
  finish(*events, calls.calls, shared);
}

/// Reads at intervals all events that arrived meanwhile.
template <int milliseconds>
void read_every(const Storm& storm, Shared& shared) {
  const auto events = open(storm);
  CountCalls calls;
  dmaflow::sys::set_hook(&calls);
  shared.is_ready = true;
  std::uint64_t sleeps = 0;
  std::uint64_t until_the_last = 0;  // calls up to the last event; those during the silence afterwards do not count
  for (double quiet_since = now();
       !shared.is_over || now() - quiet_since < std::chrono::duration<double>(silence).count();) {
    sleep_for(std::chrono::milliseconds(milliseconds));
    ++sleeps;
    const std::uint64_t before = shared.seen;
    while (const auto event = events->take().value_or(std::nullopt)) take_one(*event, shared);
    if (shared.seen == before) continue;
    shared.last = quiet_since = now();
    until_the_last = calls.calls + sleeps;
  }
  finish(*events, until_the_last, shared);
}

// --- In raw system calls ---------------------------------------------------------------------------------------------

bool is_of(pid_t storm, const proc_event& event) {
  const auto what = static_cast<std::uint32_t>(event.what);
  if (what == static_cast<std::uint32_t>(ProcessEventMask::name)) return event.event_data.comm.process_tgid == storm;
  if (what == static_cast<std::uint32_t>(ProcessEventMask::fork)) return event.event_data.fork.parent_tgid == storm;
  return what == static_cast<std::uint32_t>(ProcessEventMask::exit) && event.event_data.exit.parent_tgid == storm;
}

int open_raw(const Storm& storm) {
  const int fd = raw::listen_to_processes(storm.receive_buffer);
  require(fd >= 0 && raw::keep_only(fd, storm.mask) == 0, "there are no process events here");
  return fd;
}

/// One blocking call for each event.
void read_by_recv(const Storm& storm, Shared& shared) {
  const int fd = open_raw(storm);
  const timeval patience{.tv_sec = 0, .tv_usec = std::chrono::microseconds(silence).count()};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  shared.is_ready = true;
  do {
    bool has_come = false;
    double last = 0;
    raw::receive_each(fd, shared.calls, [&](const proc_event& event) {
      if (!is_of(shared.storm, event)) return true;
      ++shared.seen;
      has_come = true;
      // Not for each event, because reading the clock would be measured too.
      if (shared.seen % 256 == 0 || shared.seen == storm.events) last = now();
      return true;
    });
    if (has_come) shared.last = last;
  } while (!shared.is_over);
  shared.lost = shared.drops = raw::drops(fd);
  ::close(fd);
}

// --- Running them ----------------------------------------------------------------------------------------------------

/// Runs the storm and returns when it began.
double run_storm(const Storm& storm, Shared& shared) {
  const double begun = now();
  const pid_t pid = ::fork();
  if (pid == 0) {
    shared.storm = ::getpid();
    go_to(0);
    make(storm);
    ::_exit(0);
  }
  ::waitpid(pid, nullptr, 0);
  return begun;
}

Shared* share() {
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED, "no memory");
  return new (memory) Shared;
}

constexpr const char* output = "/tmp/forkstat.out";
constexpr const char* trace = "/tmp/forkstat.trace";

[[noreturn]] void become_forkstat(const Storm& storm, bool is_traced) {
  go_to(last_cpu());
  const int file = ::open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0) ::_exit(126);
  ::dup2(file, STDOUT_FILENO);
  ::dup2(file, STDERR_FILENO);
  const char* events = storm.mask == static_cast<std::uint32_t>(ProcessEventMask::name) ? "comm" : "fork,exit";
  if (is_traced) ::execlp("strace", "strace", "-c", "-f", "-o", trace, "forkstat", "-e", events, nullptr);
  ::execlp("forkstat", "forkstat", "-e", events, nullptr);
  ::_exit(127);
}

/// The number of events that forkstat printed. It prints two lines for a fork.
std::uint64_t lines_of(const Storm& storm) {
  std::uint64_t count = 0;
  std::ifstream file(output);
  for (std::string line; std::getline(file, line);) {
    const bool is_name = storm.mask == static_cast<std::uint32_t>(ProcessEventMask::name);
    if (is_name) count += line.find(" comm ") != std::string::npos ? 1U : 0U;
    if (!is_name && line.find(" exit ") != std::string::npos) ++count;
    if (!is_name && line.find(" fork ") != std::string::npos && line.find(" child ") != std::string::npos) ++count;
  }
  return count;
}

/// The fourth column of the line "total" of strace's table.
std::uint64_t traced_calls() {
  std::ifstream file(trace);
  for (std::string line; std::getline(file, line);) {
    unsigned long calls = 0;
    if (line.ends_with(" total") && std::sscanf(line.c_str(), "%*s %*s %*s %lu", &calls) == 1) return calls;
  }
  return 0;
}

}  // namespace

double now() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

Storm storm_of_processes(std::uint64_t processes, int receive_buffer) {
  return {.name = "processes",
          .mask = static_cast<std::uint32_t>(ProcessEventMask::fork | ProcessEventMask::exit),
          .rounds = processes,
          .events = 2 * processes,
          .receive_buffer = receive_buffer};
}

Storm storm_of_names(std::uint64_t changes, int receive_buffer) {
  return {.name = "names",
          .mask = static_cast<std::uint32_t>(ProcessEventMask::name),
          .rounds = changes,
          .events = changes,
          .receive_buffer = receive_buffer};
}

void make(const Storm& storm) {
  for (std::uint64_t i = 0; i < storm.rounds; ++i) {
    if (storm.name == "names") {
      ::prctl(PR_SET_NAME, i % 2 == 0 ? "even" : "odd");
      continue;
    }
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(0);
    ::waitpid(pid, nullptr, 0);
  }
}

std::vector<Reader> readers() {
  return {{"dmaflow, every 10 ms", read_every<10>},
          {"dmaflow, every 1 ms", read_every<1>},
          {"dmaflow, at once", read_at_once},
          {"raw recv loop", read_by_recv}};
}

Run run(const Reader& reader, const Storm& storm) {
  Shared* const shared = share();
  const pid_t pid = ::fork();
  if (pid == 0) {
    go_to(last_cpu());
    reader.read(storm, *shared);
    ::_exit(0);
  }
  while (!shared->is_ready && ::waitpid(pid, nullptr, WNOHANG) == 0) sleep_for(1ms);
  require(shared->is_ready, "a reader could not begin");
  const double begun = run_storm(storm, *shared);
  shared->is_over = true;
  rusage usage{};
  int status = 0;
  ::wait4(pid, &status, 0, &usage);
  require(status == 0, "a reader failed");
  const Run run{.seen = shared->seen,
                .lost = shared->lost,
                .drops = shared->drops,
                .calls = shared->calls,
                .seconds = shared->last - begun,
                .cpu_seconds = cpu_of(usage)};
  ::munmap(shared, sizeof(Shared));
  return run;
}

bool has_forkstat() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the program has one thread
  return std::system("command -v forkstat >/dev/null && command -v strace >/dev/null") == 0;
}

Run run_forkstat(const Storm& storm, bool is_traced) {
  const pid_t pid = ::fork();
  if (pid == 0) become_forkstat(storm, is_traced);
  sleep_for(is_traced ? 3s : 1s);  // it does not report when it is ready
  Shared* const shared = share();
  const double begun = run_storm(storm, *shared);
  ::munmap(shared, sizeof(Shared));
  // It has read everything once its CPU time no longer grows. The time this took is not known to a precision of 10 ms.
  double ended = now();
  for (clockid_t clock = 0; ::clock_getcpuclockid(pid, &clock) == 0;) {
    timespec before{};
    timespec after{};
    ::clock_gettime(clock, &before);
    sleep_for(is_traced ? 1s : silence);
    ::clock_gettime(clock, &after);
    if (after.tv_sec == before.tv_sec && after.tv_nsec - before.tv_nsec < 2'000'000) break;
    ended = now();
  }
  // strace ends when the program that it traces has ended, so the signal goes to forkstat in both cases.
  if (is_traced) (void)std::system("kill -INT $(pidof forkstat)");  // NOLINT(concurrency-mt-unsafe)
  if (!is_traced) ::kill(pid, SIGINT);
  rusage usage{};
  int status = 0;
  ::wait4(pid, &status, 0, &usage);
  require(!WIFEXITED(status) || WEXITSTATUS(status) != 127, "there is no forkstat here, or no strace");
  return {.seen = lines_of(storm),
          .calls = is_traced ? traced_calls() : 0,
          .seconds = ended - begun,
          .cpu_seconds = cpu_of(usage)};
}

}  // namespace bench
