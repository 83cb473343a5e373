// Process events from the kernel itself: every field is compared with what the test did.
#include "allocator_checks.hpp"
#include "process_support.hpp"

#include <dmaflow/connector.hpp>
#include <dmaflow/process.hpp>
#include <dmaflow/process_events.hpp>
#include <dmaflow/process_table.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

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

// --- Each event, field by field --------------------------------------------------------------------------------------

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
      (void)!::read(ends[0], &byte, 1);  // until the test closes the pipe
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
  EXPECT_TRUE(test::fails_with(wait_for_exit({.pid = pid}, Deadline::immediate()), ETIMEDOUT));
  must(table.scan());
  EXPECT_TRUE(table.contains(pid)) << "also for who looks at /proc now";
  ::close(ends[1]);
  EXPECT_TRUE(wait_for_exit({.pid = pid}, Deadline::after(20s)));
  EXPECT_TRUE(process.has_exited());
  const int status = reap(pid);
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_TRUE(wait_for_exit({.pid = pid}, Deadline::immediate())) << "one that is gone has ended";
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
  while (!has_execed || !has_thread_ended) {  // they may come in either order
    const auto event = must(events_->wait(Deadline::after(20s)));
    const auto change = table.apply(event);
    const auto* exit = event.as<Exit>();
    const auto* exec = event.as<Exec>();
    has_execed = has_execed || (exec != nullptr && exec->task == Task{pid, pid});
    if (exit != nullptr && exit->task.tgid == pid) {  // the first thread, with its own number or the other's
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
  id.start += 1;  // as if another process had the pid now
  EXPECT_TRUE(test::fails_with(Process::open(id), ESRCH));
  const ProcessId other{.pid = ::getpid(), .start = id.start};
  EXPECT_TRUE(test::fails_with(Process::open(other), ESRCH));
  EXPECT_TRUE(wait_for_exit(other, Deadline::immediate())) << "that one has ended";
  EXPECT_TRUE(test::fails_with(wait_for_exit(must(identify(::getpid())), Deadline::immediate()), ETIMEDOUT));
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

// --- Privileges ------------------------------------------------------------------------------------------------------

std::string open_and_say() {
  const auto events = ProcessEvents::open({}, Deadline::after(2s));
  return events ? "opened" : events.error().message();
}

/// The same in a child process that has run @p prepare.
std::string say_after(const std::function<bool()>& prepare, bool is_forked_again = false) {
  return test::as_user(0, {0}, [&] {
    if (!prepare()) return std::string("cannot prepare");
    return is_forked_again ? test::as_user(0, {0}, open_and_say) : open_and_say();
  });
}

/// A refusal for lack of privilege says so, and names the privilege that is needed.
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
    expect_privilege_named(said);  // the kernel refuses before it checks the namespace
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

// --- Several listeners -----------------------------------------------------------------------------------------------

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
  // Multicast also reaches the kernel's own socket, which refuses it if no socket has this port.
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

}  // namespace
}  // namespace dmaflow::connector
