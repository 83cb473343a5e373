// Process events against the kernel itself: every field is compared with what the test did.
#include "allocator_checks.hpp"
#include "connector_support.hpp"
#include "count_new.hpp"

#include <dmaflow/connector.hpp>
#include <dmaflow/process.hpp>
#include <dmaflow/process_events.hpp>
#include <dmaflow/process_table.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dmaflow::connector {
namespace {

using namespace std::chrono_literals;
using test::allocations;
using test::must;

constexpr const char* page = "docs/connector.md";

std::chrono::nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

Task self() { return {.pid = ::gettid(), .tgid = ::getpid()}; }

template <typename Function>
pid_t child(Function body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    body();
    ::_exit(0);
  }
  return pid;
}

int reap(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return status;
}

template <typename T>
Task task_of(const T& event) {
  if constexpr (std::is_same_v<T, Fork>) {
    return event.child;
  } else {
    return event.task;
  }
}

class ConnectorProcess : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = ProcessEvents::open(options());
    if (!opened && !test::in_lab()) GTEST_SKIP() << opened.error().message();
    events_ = must(std::move(opened));
    begun_ = now();
  }
  virtual ProcessEventsOptions options() const { return {}; }

  /// The next event of this kind of this process, whatever comes between.
  template <typename T>
  T expect(pid_t process) {
    while (true) {
      const auto event = events_->wait(Deadline::after(20s));
      if (!event) {
        ADD_FAILURE() << event.error().message();
        return {};
      }
      EXPECT_EQ(event->as<Lost>(), nullptr);
      const T* wanted = event->as<T>();
      if (wanted == nullptr || task_of(*wanted).tgid != process) continue;
      EXPECT_GE(event->time, begun_);
      EXPECT_LE(event->time, now());
      EXPECT_LT(event->cpu, static_cast<unsigned long>(::sysconf(_SC_NPROCESSORS_CONF)));
      return *wanted;
    }
  }

  std::unique_ptr<ProcessEvents> events_;
  std::chrono::nanoseconds begun_{};
};

// --- What the kernel tells, field by field ---------------------------------------------------------------------------

TEST_F(ConnectorProcess, ForkAndExitWithTheirParentAndCode) {
  const pid_t pid = child([] { ::_exit(7); });
  const auto fork = expect<Fork>(pid);
  EXPECT_EQ(fork.parent, self());
  EXPECT_EQ(fork.child, (Task{pid, pid}));
  EXPECT_TRUE(fork.is_process());
  const auto exit = expect<Exit>(pid);
  EXPECT_EQ(exit.task, (Task{pid, pid}));
  EXPECT_EQ(exit.code(), 7);
  EXPECT_EQ(exit.signal(), 0);
  EXPECT_EQ(exit.parent_signal, SIGCHLD);
  EXPECT_EQ(exit.parent.tgid, ::getpid());
  EXPECT_TRUE(exit.is_first_thread());
  EXPECT_EQ(static_cast<int>(exit.status), reap(pid));
}

TEST_F(ConnectorProcess, VforkAndExec) {
  const pid_t pid = ::vfork();
  if (pid == 0) {
    ::execl("/bin/true", "true", nullptr);
    ::_exit(127);
  }
  EXPECT_EQ(expect<Fork>(pid).parent, self());
  EXPECT_EQ(expect<Exec>(pid).task, (Task{pid, pid}));
  EXPECT_EQ(expect<Exit>(pid).code(), 0);
  reap(pid);
}

TEST_F(ConnectorProcess, AThreadIsAForkInTheSameProcess) {
  std::atomic<pid_t> tid = 0;
  std::thread([&] { tid = ::gettid(); }).join();
  const auto fork = expect<Fork>(::getpid());
  EXPECT_EQ(fork.child, (Task{tid, ::getpid()}));
  EXPECT_FALSE(fork.is_process());
  test::observe("a thread's fork names the parent of its process and not who called clone()",
                fork.parent.tgid == ::getppid(), page);
  EXPECT_TRUE(fork.parent.tgid == ::getppid() || fork.parent.tgid == ::getpid()) << fork.parent.tgid;
  const auto exit = expect<Exit>(::getpid());
  EXPECT_EQ(exit.task.pid, tid);
  EXPECT_EQ(exit.parent_signal, -1);
  EXPECT_FALSE(exit.is_first_thread());
}

TEST_F(ConnectorProcess, IdentitiesRealAndEffective) {
  const pid_t pid = child([] {
    if (::setresgid(1001, 1002, 1003) != 0 || ::setresuid(1004, 1005, 1006) != 0) ::_exit(1);
  });
  const auto gid = expect<GidChange>(pid);
  EXPECT_EQ(gid.task, (Task{pid, pid}));
  EXPECT_EQ(gid.real, 1001U);
  EXPECT_EQ(gid.effective, 1002U);
  const auto uid = expect<UidChange>(pid);
  EXPECT_EQ(uid.real, 1004U);
  EXPECT_EQ(uid.effective, 1005U);
  EXPECT_EQ(expect<Exit>(pid).code(), 0);
  reap(pid);
}

TEST_F(ConnectorProcess, SessionsAndNames) {
  const pid_t pid = child([] {
    ::setsid();
    ::prctl(PR_SET_NAME, "fifteen-letters");
    ::prctl(PR_SET_NAME, "");
  });
  EXPECT_EQ(expect<SessionStart>(pid).task, (Task{pid, pid}));
  EXPECT_EQ(expect<NameChange>(pid).name(), "fifteen-letters");
  EXPECT_EQ(expect<NameChange>(pid).name(), "");
  reap(pid);
}

TEST_F(ConnectorProcess, PtraceAttachAndDetach) {
  const pid_t pid = child([] { ::pause(); });
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr), 0);
  EXPECT_EQ(expect<Ptrace>(pid).tracer, self());
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr), 0);
  int status = 0;
  ::waitpid(pid, &status, 0);
  ASSERT_EQ(::ptrace(PTRACE_DETACH, pid, nullptr, nullptr), 0);
  EXPECT_EQ(expect<Ptrace>(pid).tracer, Task{});
  ::kill(pid, SIGKILL);
  const auto exit = expect<Exit>(pid);
  EXPECT_EQ(exit.signal(), SIGKILL);
  EXPECT_FALSE(exit.code());
  EXPECT_FALSE(exit.dumped_core());
  reap(pid);
}

TEST_F(ConnectorProcess, ACoreDumpAndWhetherThereWasOne) {
  for (const bool may_dump : {false, true}) {
    const pid_t pid = child([may_dump] {
      std::filesystem::current_path("/tmp");
      const rlimit limit{.rlim_cur = may_dump ? RLIM_INFINITY : 0, .rlim_max = RLIM_INFINITY};
      ::setrlimit(RLIMIT_CORE, &limit);
      ::signal(SIGABRT, SIG_DFL);
      ::abort();
    });
    const auto dump = expect<CoreDump>(pid);
    EXPECT_EQ(dump.task, (Task{pid, pid}));
    EXPECT_EQ(dump.parent.tgid, ::getpid());
    const auto exit = expect<Exit>(pid);
    EXPECT_EQ(exit.signal(), SIGABRT);
    const int status = reap(pid);
    EXPECT_EQ(static_cast<int>(exit.status), status);
    EXPECT_EQ(exit.dumped_core(), WCOREDUMP(status) != 0);
  }
}

// --- The end of a process --------------------------------------------------------------------------------------------

TEST_F(ConnectorProcess, AFirstThreadThatEndsEarlyIsNotTheEndOfTheProcess) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const pid_t pid = child([&] {
    ::close(ends[1]);
    std::thread([&] {
      char byte = 0;
      (void)!::read(ends[0], &byte, 1);  // until the test says so
      ::_exit(3);
    }).detach();
    ::syscall(SYS_exit, 0);  // this thread alone
  });
  ::close(ends[0]);
  ProcessTable table;
  must(table.scan());
  const auto process = must(Process::open(must(identify(pid))));
  EXPECT_TRUE(expect<Exit>(pid).is_first_thread());
  EXPECT_FALSE(process.has_exited());
  EXPECT_TRUE(test::fails_with(wait_for_exit({.pid = pid}, Deadline::passed()), ETIMEDOUT));
  must(table.scan());
  EXPECT_TRUE(table.contains(pid)) << "also for who looks at /proc now";
  ::close(ends[1]);
  EXPECT_TRUE(wait_for_exit({.pid = pid}, Deadline::after(20s)));
  EXPECT_TRUE(process.has_exited());
  const int status = reap(pid);
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_TRUE(wait_for_exit({.pid = pid}, Deadline::passed())) << "one that is gone has ended";
}

TEST_F(ConnectorProcess, AnExecByAnotherThreadEndsNoProcess) {
  ProcessTable table;
  must(table.resync(*events_, Deadline::after(20s)));
  const pid_t pid = child([] {
    std::thread([] { ::execl("/bin/sh", "sh", "-c", "kill -STOP $$; exit 4", nullptr); }).detach();
    ::pause();
  });
  bool has_thread_ended = false;
  bool has_execed = false;
  while (!has_execed || !has_thread_ended) {  // which of them comes first is open
    const auto event = must(events_->wait(Deadline::after(20s)));
    const auto change = table.apply(event);
    const auto* exit = event.as<Exit>();
    const auto* exec = event.as<Exec>();
    has_execed = has_execed || (exec != nullptr && exec->task == Task{pid, pid});
    if (exit != nullptr && exit->task.tgid == pid) {  // the first thread, by its own number or by the other's
      has_thread_ended = true;
      EXPECT_NE(change, ProcessTable::Change::ended);
    }
  }
  ASSERT_TRUE(table.contains(pid));
  EXPECT_EQ(table.find(pid)->threads, 1U);
  ::kill(pid, SIGKILL);
  while (table.contains(pid)) table.apply(must(events_->wait(Deadline::after(20s))));
  reap(pid);
}

TEST_F(ConnectorProcess, APidThatCameBackIsNotTheProcessItWas) {
  const pid_t pid = child([] { ::_exit(0); });
  ProcessId id = must(identify(pid));
  reap(pid);
  id.start += 1;  // as if another had the pid now
  EXPECT_TRUE(test::fails_with(Process::open(id), ESRCH));
  const ProcessId other{.pid = ::getpid(), .start = id.start};
  EXPECT_TRUE(test::fails_with(Process::open(other), ESRCH));
  EXPECT_TRUE(wait_for_exit(other, Deadline::passed())) << "that one has ended";
  EXPECT_TRUE(test::fails_with(wait_for_exit(must(identify(::getpid())), Deadline::passed()), ETIMEDOUT));
}

TEST_F(ConnectorProcess, AThreadIsNoProcess) {
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> is_over = false;
  std::thread thread([&] {
    tid = ::gettid();
    while (!is_over) std::this_thread::yield();
  });
  while (tid == 0) std::this_thread::yield();
  EXPECT_TRUE(test::fails_with(Process::open(tid), EINVAL));
  EXPECT_TRUE(test::fails_with(identify(tid), ESRCH));
  is_over = true;
  thread.join();
}

// --- Filters ---------------------------------------------------------------------------------------------------------

class ConnectorFiltered : public ConnectorProcess, public testing::WithParamInterface<ProcessEventsOptions::Filter> {
 protected:
  ProcessEventsOptions options() const override {
    return {.events = ProcessEventMask::exec | ProcessEventMask::name, .filter = GetParam()};
  }
};

TEST_P(ConnectorFiltered, OnlyWhatWasAskedForComes) {
  const bool is_kernels = events_->filter() == ProcessEvents::Filter::kernel;
  if (GetParam() == ProcessEventsOptions::Filter::bpf) {
    EXPECT_EQ(events_->filter(), ProcessEvents::Filter::bpf);
  } else {
    test::observe("the kernel filters process events for each socket", is_kernels, page);
    EXPECT_TRUE(is_kernels || events_->filter() == ProcessEvents::Filter::bpf) << "whoever can";
  }
  const pid_t pid = child([] {
    ::prctl(PR_SET_NAME, "named");
    ::setsid();
    ::execl("/bin/true", "true", nullptr);
  });
  reap(pid);
  ::prctl(PR_SET_NAME, "last");
  std::string seen;
  while (true) {
    const auto event = must(events_->wait(Deadline::after(20s)));
    if (const auto* exec = event.as<Exec>()) seen += exec->task.tgid == pid ? "exec " : "";
    const auto* name = event.as<NameChange>();
    ASSERT_TRUE(name != nullptr || event.as<Exec>() != nullptr) << event.what.index();
    if (name == nullptr) continue;
    seen += std::string(name->name()) + " ";
    if (name->name() == "last") break;
  }
  EXPECT_EQ(seen, "named exec last ");
}

INSTANTIATE_TEST_SUITE_P(By, ConnectorFiltered,
                         testing::Values(ProcessEventsOptions::Filter::automatic, ProcessEventsOptions::Filter::bpf));

// --- Who may ---------------------------------------------------------------------------------------------------------

std::string open_and_say() {
  const auto events = ProcessEvents::open({}, Deadline::after(2s));
  return events ? "opened" : events.error().message();
}

/// The same in a child that did @p prepare.
std::string say_after(const std::function<bool()>& prepare, bool is_forked_again = false) {
  return test::as_user(0, {0}, [&] {
    if (!prepare()) return std::string("cannot prepare");
    return is_forked_again ? test::as_user(0, {0}, open_and_say) : open_and_say();
  });
}

/// A refusal for lack of privilege says so, and which one helps.
void expect_privilege_named(const std::string& said) {
  EXPECT_NE(said.find("EPERM"), std::string::npos) << said;
  EXPECT_NE(said.find("CAP_NET_ADMIN"), std::string::npos) << said;
}

TEST_F(ConnectorProcess, AnOrdinaryUserMayListenOrIsToldWhatHelps) {
  if (!test::in_lab()) GTEST_SKIP() << "needs the lab's users";
  const std::string said = test::as_user(1000, {1000}, open_and_say);
  test::observe("an ordinary user may have process events", said == "opened", page);
  if (said != "opened") expect_privilege_named(said);
}

TEST_F(ConnectorProcess, AForeignNetworkNamespaceIsNamed) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  const std::string said = say_after([] { return ::unshare(CLONE_NEWNET) == 0; });
  test::observe("process events come into another network namespace", said == "opened", page);
  if (said != "opened") {
    EXPECT_NE(said.find("network namespace"), std::string::npos) << said;
  }
}

TEST_F(ConnectorProcess, AForeignPidNamespaceIsNamed) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  const std::string said = say_after([] { return ::unshare(CLONE_NEWPID) == 0; }, true);
  test::observe("process events come into another pid namespace", said == "opened", page);
  if (said != "opened") {
    EXPECT_NE(said.find("pid namespace"), std::string::npos) << said;
  }
}

TEST_F(ConnectorProcess, AForeignUserNamespaceIsNamed) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  const std::string said = test::as_user(0, {0}, [] {
    if (::unshare(CLONE_NEWUSER) != 0) return std::string("cannot unshare");
    return open_and_say();
  });
  test::observe("process events come into another user namespace", said == "opened", page);
  if (said.find("EPERM") != std::string::npos) {
    expect_privilege_named(said);  // the kernel refuses before it looks at the namespace
  } else if (said != "opened") {
    EXPECT_NE(said.find("user namespace"), std::string::npos) << said;
  }
}

TEST_F(ConnectorProcess, ASocketOfABrokerServesWhoHasNoPrivilege) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  auto socket = must(Socket::open());
  must(socket.join(1));
  Fd mine = socket.release();
  const std::string said = test::as_user(1000, {1000}, [&] {
    // This test's own stream keeps the kernel sending.
    auto events = ProcessEvents::adopt(mine, true, {.events = ProcessEventMask::name});
    if (!events) return events.error().message();
    ::prctl(PR_SET_NAME, "of-a-user");
    const auto event = (*events)->wait(Deadline::after(20s));
    if (!event) return event.error().message();
    const auto* name = event->as<NameChange>();
    return name != nullptr ? std::string(name->name()) : "another event";
  });
  EXPECT_EQ(said, "of-a-user");
}

TEST_F(ConnectorProcess, EveryFailingCallLeavesNothingBehind) {
  for (std::size_t nth = 1;; ++nth) {
    const test::LeakCheck leaks;
    test::FailNth fail(nth, EIO);
    (void)ProcessEvents::open();
    if (!fail.fired()) break;
  }
}

// --- Several of them -------------------------------------------------------------------------------------------------

TEST_F(ConnectorProcess, OneOfTwoListenersLeavingTakesNothingFromTheOther) {
  auto second = must(ProcessEvents::open());
  auto third = must(ProcessEvents::open({.events = ProcessEventMask::name}));
  second.reset();
  const pid_t pid = child([] { ::prctl(PR_SET_NAME, "heard"); });
  EXPECT_EQ(expect<NameChange>(pid).name(), "heard");
  third.reset();
  const pid_t next = child([] { ::_exit(9); });
  EXPECT_EQ(expect<Exit>(next).code(), 9);
  reap(pid);
  reap(next);
}

TEST_F(ConnectorProcess, AProgramThatLeftOnceTooOftenLocksNobodyOut) {
  if (!test::in_lab()) GTEST_SKIP() << "a kernel that only counts its listeners would fall silent for others";
  events_.reset();
  auto client = must(Client::open());
  test::Bytes ignore;
  test::append(ignore, std::uint32_t{2});
  for (int i = 0; i < 2; ++i) must(client->send({.id = ids::process, .payload = ignore}));
  events_ = must(ProcessEvents::open());
  const pid_t pid = child([] { ::_exit(9); });
  EXPECT_EQ(expect<Exit>(pid).code(), 9);
  reap(pid);
}

TEST_F(ConnectorProcess, AListenerClosedWithoutNoticeTakesNothingFromTheOther) {
  const pid_t listener = child([] {
    const auto events = ProcessEvents::open();
    ::_exit(events ? 0 : 1);  // without its destructor
  });
  EXPECT_EQ(reap(listener), 0);
  const pid_t pid = child([] { ::_exit(9); });
  EXPECT_EQ(expect<Exit>(pid).code(), 9);
  reap(pid);
}

TEST_F(ConnectorProcess, ForgedEventsAreRejectedAndCounted) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  const Fd forger = Fd::adopt(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR));
  test::Bytes payload(40);
  const std::uint32_t what = 0x80000000;
  const std::uint32_t pid = 4711;
  std::memcpy(payload.data(), &what, sizeof what);
  std::memcpy(payload.data() + 16, &pid, sizeof pid);
  std::memcpy(payload.data() + 20, &pid, sizeof pid);
  const auto datagram = test::netlink({test::cn(ids::process, 1, 0, payload)});
  sockaddr_nl group{};
  group.nl_family = AF_NETLINK;
  group.nl_groups = 1;
  // Multicast also goes to the kernel's own socket, which refuses it where nobody has this port.
  for (int i = 0; i < 3; ++i) {
    const ssize_t sent =
        ::sendto(forger.get(), datagram.data(), datagram.size(), 0, reinterpret_cast<sockaddr*>(&group), sizeof group);
    if (sent < 0) GTEST_SKIP() << "this kernel lets no program send to the group: " << ::strerrorname_np(errno);
  }
  const pid_t true_one = child([] { ::_exit(5); });
  while (true) {
    const auto event = must(events_->wait(Deadline::after(20s)));
    const auto* exit = event.as<Exit>();
    if (exit == nullptr) continue;
    EXPECT_NE(exit->task.pid, 4711);
    if (exit->task.pid == true_one) break;
  }
  EXPECT_EQ(events_->counters().foreign, 3U);
  reap(true_one);
}

// --- Storms and losses -----------------------------------------------------------------------------------------------

/// Events as fast as one thread can make them.
void rename_often(unsigned times) {
  for (unsigned i = 0; i < times; ++i) ::prctl(PR_SET_NAME, i % 2 == 0 ? "even" : "odd");
}

class ConnectorStorm : public ConnectorProcess {
 protected:
  /// Of small room: most kernels' default. That of this one may be larger.
  ProcessEventsOptions options() const override {
    return {.events = ProcessEventMask::name, .receive_buffer = 212'992};
  }
  /// Another stream, with room for all that the tests do here.
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
  // Counted by events and by losses: how many events fit between two losses is the kernel's affair.
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

/// A process that makes others, which end at once, as fast as the first processor can.
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

/// Reads as a plain program does, an event with each call, until nothing is left. Says how many calls that took.
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

/// Two readers of one storm, where one has so little room that it must lose: what the other saw is what happened.
class ConnectorForcedLoss : public ConnectorProcess {
 protected:
  static constexpr ProcessEventMask mask = ProcessEventMask::fork | ProcessEventMask::exit;
  ProcessEventsOptions options() const override { return {.events = mask}; }
};

TEST_F(ConnectorForcedLoss, WhatIsSeenAndWhatIsLostIsAllThereWas) {
  // Reads as fast as it can, now and then, and not before the storm is over.
  for (const auto pause : {0ms, 20ms, -1ms}) {
    auto small = must(ProcessEvents::open({.events = mask, .receive_buffer = 4096}));
    while (must(events_->take())) {
    }
    ASSERT_FALSE(must(small->take()));
    const auto before = events_->counters().events;
    const pid_t storm = storm_of_processes(400);
    siginfo_t ended{};
    while (::waitid(P_PID, static_cast<id_t>(storm), &ended, WEXITED | WNOWAIT | WNOHANG) == 0 && ended.si_pid == 0) {
      std::this_thread::sleep_for(pause < 0ms ? 1ms : pause);
      if (pause >= 0ms) (void)must(small->take());
    }
    reap(storm);
    while (must(events_->take())) {
    }
    while (must(small->take())) {
    }
    const auto counters = small->counters();
    EXPECT_EQ(events_->counters().lost, 0U);
    EXPECT_EQ(counters.events + counters.lost, events_->counters().events - before);
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

/// The table, kept by events alone, is what /proc shows. Looks again for a while: the kernel's own threads come and go
/// between two looks, and one that ends is a zombie before its exit is told. A table that is wrong stays so.
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
  // Room for a tenth of what is to come. The other stream has room for all of it, and says how much it was.
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

  // And it stays true from then on, by events alone.
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
    // What was left behind sleeps.
    table.for_each([&](const ProcessTable::Entry& entry) {
      if (entry.parent == storm) ::kill(entry.id.pid, SIGKILL);
    });
  }
}

}  // namespace
}  // namespace dmaflow::connector
