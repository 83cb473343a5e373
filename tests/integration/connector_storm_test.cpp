// Storms of process events, and losses: every loss is reported, and no unnecessary calls are made.
#include "count_new.hpp"
#include "process_support.hpp"

#include <dmaflow/connector.hpp>
#include <dmaflow/process.hpp>
#include <dmaflow/process_events.hpp>
#include <dmaflow/process_table.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dmaflow::connector {
namespace {

using test::allocations;

/// Makes events as fast as one thread can.
void rename_often(unsigned times) {
  for (unsigned i = 0; i < times; ++i) ::prctl(PR_SET_NAME, i % 2 == 0 ? "even" : "odd");
}

class ConnectorStorm : public ConnectorProcess {
 protected:
  /// With a small buffer: most kernels' default. The default of this kernel may be larger.
  ProcessEventsOptions options() const override {
    return {.events = ProcessEventMask::name, .receive_buffer = 212'992};
  }
  /// Another stream, with room for all events of these tests.
  static std::unique_ptr<ProcessEvents> roomy() {
    return must(ProcessEvents::open({.events = ProcessEventMask::name, .receive_buffer = 16U << 20U}));
  }
};

TEST_F(ConnectorStorm, WhatIsLostIsToldAtItsPlaceAndIsTheKernelsCount) {
  constexpr unsigned times = 20'000;
  rename_often(times);
  std::uint64_t seen = 0;
  std::uint64_t lost = 0;
  bool has_lost_before_an_event = false;
  while (const auto event = must(events_->take())) {
    const auto* loss = event->as<Lost>();
    if (loss != nullptr) {
      lost += loss->count;
    } else {
      has_lost_before_an_event = has_lost_before_an_event || lost > 0;
      ++seen;
    }
  }
  EXPECT_EQ(seen + lost, times);
  EXPECT_GT(lost, times / 2);
  EXPECT_EQ(lost, must(events_->drops()));
  EXPECT_EQ(lost, events_->counters().lost);
  EXPECT_FALSE(has_lost_before_an_event) << "the hole is after what was queued when it began";
}

TEST_F(ConnectorStorm, EventsThatComeWhileOthersAreReadAreAllAccountedFor) {
  for (int round = 0; round < 5; ++round) {
    constexpr unsigned times = 20'000;
    const auto before = events_->counters();
    std::atomic<bool> is_over = false;
    std::thread storm([&] {
      rename_often(times);
      is_over = true;
    });
    while (!is_over || must(events_->take())) {
      (void)must(events_->take());
    }
    storm.join();
    while (must(events_->take())) {
    }
    const auto after = events_->counters();
    EXPECT_EQ(after.events - before.events + after.lost - before.lost, times);
    EXPECT_EQ(static_cast<std::uint32_t>(after.lost), must(events_->drops()));
  }
}

TEST_F(ConnectorStorm, ReadingAllocatesNothingAndMakesOneCallForManyEvents) {
  const auto events = roomy();
  if (!events->receive_buffer().is_as_asked) GTEST_SKIP() << "needs a receive buffer of 16 MiB";
  constexpr unsigned times = 8'000;
  rename_often(times);
  const std::size_t allocated = allocations;
  test::CountCalls calls;
  unsigned seen = 0;
  while (must(events->take())) ++seen;
  EXPECT_EQ(seen, times);
  EXPECT_EQ(allocations, allocated);
  EXPECT_LE(calls.calls() * 32, seen) << "a loop of recv() makes one for each";
}

TEST_F(ConnectorStorm, WhoOnlyWaitsMakesTwoCallsAWakeUp) {
  auto events = must(ProcessEvents::open({.events = ProcessEventMask::name}));
  const auto next = [&] {
    rename_often(1);
    return events->wait(Deadline::after(20s));
  };
  ASSERT_TRUE(next());
  constexpr unsigned times = 100;
  unsigned seen = 0;
  const test::CountCalls calls;
  for (unsigned i = 0; i < times; ++i) seen += next() ? 1U : 0U;
  EXPECT_EQ(seen, times);
  EXPECT_LE(calls.calls(), 2 * times) << "one that sleeps, one that reads";
}

TEST_F(ConnectorStorm, ALossCostsFewCalls) {
  // Counted per event and per loss, because the number of events between two losses depends on the kernel.
  const auto events = must(ProcessEvents::open({.events = ProcessEventMask::name, .receive_buffer = 1U << 20U}));
  constexpr unsigned times = 50'000;
  unsigned seen = 0;
  unsigned losses = 0;
  test::CountCalls calls;
  for (unsigned i = 0; i < 10; ++i) {
    rename_often(times / 10);
    while (const auto event = must(events->take())) ++(event->as<Lost>() == nullptr ? seen : losses);
  }
  EXPECT_EQ(seen + events->counters().lost, times);
  EXPECT_GT(losses, 0U);
  EXPECT_LE(calls.calls(), seen / 128 + 10 * losses);
}

TEST_F(ConnectorStorm, CallbacksOfAClientAreCalledWithoutAllocation) {
  // It only joins the group: this test's own stream keeps the kernel sending.
  auto client = must(Client::open({.receive_buffer = 16U << 20U}));
  must(client->socket().join(ids::process.idx));
  unsigned typed = 0;
  unsigned plain = 0;
  unsigned others = 0;
  const auto names = client->subscribe<ProcessEvent>([&](const ProcessEvent& event, const Message&) {
    if (event.as<NameChange>() != nullptr) ++typed;
  });
  const auto all = client->subscribe(ids::process, [&](const Message&) { ++plain; });
  client->set_default_handler([&](const Message&) { ++others; });
  const auto pending =
      must(client->request({.id = {4711, 1}}, match::Documented{}, Deadline::after(60s), [](const Reply&) {}));
  constexpr unsigned times = 5'000;
  rename_often(times);
  const std::size_t allocated = allocations;
  for (int i = 0; i < 10 && typed < times; ++i) must(client->dispatch(POLLIN));
  EXPECT_EQ(allocations, allocated);
  EXPECT_EQ(typed, times);
  EXPECT_GE(plain, times);
  EXPECT_EQ(others, 0U);
  EXPECT_TRUE(pending.is_active());
}

/// A process that creates others, which exit at once, as fast as the first processor can.
pid_t storm_of_processes(unsigned processes) {
  return child([processes] {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    ::sched_setaffinity(0, sizeof first, &first);
    for (unsigned i = 0; i < processes; ++i) reap(child([] {}));
  });
}

TEST_F(ConnectorProcess, AStormOfShortProcessesLosesNoneWith8MiB) {
  constexpr unsigned processes = 2'000;
  const pid_t storm = storm_of_processes(processes);
  std::set<pid_t> running;
  unsigned began = 0;
  unsigned ended = 0;
  for (bool is_over = false; !is_over;) {
    const auto event = must(events_->wait(Deadline::after(60s)));
    if (const auto* fork = event.as<Fork>(); fork != nullptr && fork->parent.tgid == storm) {
      ++began;
      EXPECT_TRUE(running.insert(fork->child.pid).second);
    }
    if (const auto* exit = event.as<Exit>(); exit != nullptr) {
      ended += static_cast<unsigned>(running.erase(exit->task.pid));
      is_over = exit->task.pid == storm;
    }
  }
  reap(storm);
  EXPECT_EQ(began, processes);
  EXPECT_EQ(ended, processes);
  EXPECT_EQ(events_->counters().lost, 0U);
  EXPECT_EQ(must(events_->drops()), 0U);
}

/// Reads as a simple program does, one event per call, until nothing is left. Returns the number of calls.
unsigned calls_of_a_recv_loop(int socket, unsigned& seen) {
  std::array<std::byte, 128> datagram;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel fills it
  unsigned calls = 1;
  for (; ::recv(socket, datagram.data(), datagram.size(), MSG_DONTWAIT) > 0; ++calls) ++seen;
  return calls;
}

TEST_F(ConnectorProcess, ADeepQueueCostsA32ndOfTheCallsOfARecvLoop) {
  auto plain = must(Socket::open());
  must(plain.set_receive_buffer(8U << 20U));
  while (must(events_->take())) {
  }
  const auto before = events_->counters().events;
  must(plain.join(ids::process.idx));
  reap(storm_of_processes(2'000));
  must(plain.leave(ids::process.idx));
  const test::CountCalls calls;
  while (must(events_->take())) {
  }
  const std::size_t ours = calls.calls();
  unsigned seen = 0;
  const unsigned theirs = calls_of_a_recv_loop(plain.poll_fd(), seen);
  EXPECT_GE(seen, 4'000U);
  EXPECT_EQ(must(plain.drops()), 0U);
  EXPECT_GE(events_->counters().events - before, 4'000U);
  EXPECT_LE(ours * 32, theirs);
}

/// Two readers of one storm. The buffer of one is so small that it must lose events; the other sees all that happened.
class ConnectorForcedLoss : public ConnectorProcess {
 protected:
  static constexpr ProcessEventMask mask = ProcessEventMask::fork | ProcessEventMask::exit;
  ProcessEventsOptions options() const override { return {.events = mask}; }
  /// Repeats until both have read the same, because other processes of the machine start and end meanwhile.
  void read_all(ProcessEvents& other) {
    do {
      while (must(events_->take())) {
      }
      while (must(other.take())) {
      }
    } while (must(events_->take()));
  }
};

TEST_F(ConnectorForcedLoss, WhatIsSeenAndWhatIsLostIsAllThereWas) {
  // Reads continuously, at intervals, and only after the storm.
  for (const auto pause : {0ms, 20ms, -1ms}) {
    auto small = must(ProcessEvents::open({.events = mask, .receive_buffer = 4096}));
    read_all(*small);
    const auto before = events_->counters().events;
    const auto before_small = small->counters();
    ASSERT_EQ(before_small.lost, 0U);
    const pid_t storm = storm_of_processes(400);
    siginfo_t ended{};
    while (::waitid(P_PID, static_cast<id_t>(storm), &ended, WEXITED | WNOWAIT | WNOHANG) == 0 && ended.si_pid == 0) {
      std::this_thread::sleep_for(pause < 0ms ? 1ms : pause);
      if (pause >= 0ms) (void)must(small->take());
    }
    reap(storm);
    read_all(*small);
    const auto counters = small->counters();
    EXPECT_EQ(events_->counters().lost, 0U);
    EXPECT_EQ(counters.events - before_small.events + counters.lost, events_->counters().events - before);
    EXPECT_EQ(static_cast<std::uint32_t>(counters.lost), must(small->drops()));
    if (pause < 0ms) {
      EXPECT_GT(counters.lost, counters.events) << "it read nothing";
    }
  }
}

/// The processes that /proc shows and that have not ended, found by other means than the library's.
std::set<pid_t> processes_in_proc() {
  std::set<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "status");
    std::string line;
    while (std::getline(file, line)) {
      if (line.starts_with("State:") && line.find("Z (") == std::string::npos &&
          line.find("X (") == std::string::npos) {
        pids.insert(std::stoi(name));
      }
    }
  }
  return pids;
}

std::set<pid_t> processes_in(const ProcessTable& table) {
  std::set<pid_t> pids;
  table.for_each([&](const ProcessTable::Entry& entry) { pids.insert(entry.id.pid); });
  return pids;
}

/// Checks that the table, which is updated by events alone, lists the processes that /proc shows. Retries for a while:
/// the kernel starts and ends threads of its own between the two reads, and a process that ended is a zombie before its
/// exit event arrives. A wrong table stays wrong.
void expect_truth(ProcessTable& table, ProcessEvents& events) {
  const Deadline deadline = Deadline::after(20s);
  while (true) {
    while (const auto event = must(events.take())) table.apply(*event);
    const auto truth = processes_in_proc();
    if (processes_in(table) == truth) return;
    if (deadline.remaining() == 0s) {
      EXPECT_EQ(processes_in(table), truth);
      return;
    }
    std::this_thread::sleep_for(10ms);
  }
}

TEST_F(ConnectorProcess, AfterALossOfHalfTheTableIsTheTruthOfProc) {
  if (!test::in_lab()) GTEST_SKIP() << "other programs come and go";
  // The buffer has room for a tenth of the events. The other stream has room for all of them, and counts them.
  auto events = must(ProcessEvents::open({.receive_buffer = 1U << 16U}));
  ProcessTable table;
  must(table.resync(*events, Deadline::after(20s)));
  expect_truth(table, *events);
  while (must(events_->take())) {
  }
  const auto before = events_->counters().events;
  std::vector<pid_t> staying;
  std::uint64_t seen = 0;
  for (int i = 0; i < 300; ++i) {
    const pid_t pid = child([&] {
      if (i % 10 == 0) ::pause();
    });
    if (i % 10 == 0) {
      staying.push_back(pid);
    } else {
      reap(pid);
    }
    if (i == 100) ::kill(staying[3], SIGKILL), reap(staying[3]);
  }
  std::uint64_t lost = 0;
  const auto count = [&](const ProcessEvent& event) {
    if (const auto* loss = event.as<Lost>()) {
      lost += loss->count;
    } else {
      ++seen;
    }
  };
  while (const auto event = must(events->take())) {
    table.apply(*event);
    count(*event);
  }
  while (must(events_->take())) {
  }
  EXPECT_EQ(events_->counters().lost, 0U);
  EXPECT_EQ(seen + lost, events_->counters().events - before);
  EXPECT_GE(lost * 2, seen + lost) << "at least half of all";
  EXPECT_NE(processes_in(table), processes_in_proc()) << "what was lost is missing";
  must(table.resync(*events, Deadline::after(20s), count));
  expect_truth(table, *events);
  EXPECT_FALSE(table.contains(staying[3]));
  EXPECT_EQ(lost, must(events->drops()));

  // From then on it stays correct by events alone.
  for (const pid_t pid : staying) ::kill(pid, SIGKILL), ::waitpid(pid, nullptr, 0);
  expect_truth(table, *events);
}

TEST_F(ConnectorProcess, ATableMadeWhileProcessesComeAndGoIsTrue) {
  if (!test::in_lab()) GTEST_SKIP() << "other programs come and go";
  for (int round = 0; round < 5; ++round) {
    const pid_t storm = child([] {
      for (int i = 0; i < 100; ++i) {
        const pid_t pid = child([i] {
          std::thread([] {}).join();
          if (i % 25 == 0) ::sleep(30);
        });
        if (i % 25 != 0) ::waitpid(pid, nullptr, 0);
      }
    });
    ProcessTable table;
    must(table.resync(*events_, Deadline::after(20s)));
    reap(storm);
    expect_truth(table, *events_);
    // The remaining processes are sleeping.
    table.for_each([&](const ProcessTable::Entry& entry) {
      if (entry.parent == storm) ::kill(entry.id.pid, SIGKILL);
    });
  }
}

}  // namespace
}  // namespace dmaflow::connector
