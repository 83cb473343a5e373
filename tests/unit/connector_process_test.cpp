// Process events and the table of processes, with bytes and events that the test makes up.
#include "connector_support.hpp"

#include "../../backends/connector/proc.hpp"

#include <dmaflow/process_events.hpp>
#include <dmaflow/process_table.hpp>

#include <cerrno>
#include <string>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dmaflow::connector {
namespace {

using test::Bytes;
using test::must;
using Change = ProcessTable::Change;

Bytes raw(std::uint32_t what, const std::vector<std::uint32_t>& words) {
  Bytes bytes;
  test::append(bytes, what);
  test::append(bytes, std::uint32_t{3});
  test::append(bytes, std::uint64_t{0x0123456789abcdef});
  for (const std::uint32_t word : words) test::append(bytes, word);
  bytes.resize(40);
  return bytes;
}

ProcessEvent parsed(const Bytes& bytes) { return PayloadTraits<ProcessEvent>::parse(bytes).value(); }

TEST(ProcessEventDecode, EveryKindWithEveryField) {
  const auto fork = parsed(raw(0x1, {1, 2, 3, 4}));
  EXPECT_EQ(fork.cpu, 3U);
  EXPECT_EQ(fork.time.count(), 0x0123456789abcdef);
  EXPECT_EQ(fork.as<Fork>()->parent, (Task{1, 2}));
  EXPECT_EQ(fork.as<Fork>()->child, (Task{3, 4}));
  EXPECT_EQ(fork.as<Exit>(), nullptr);
  EXPECT_EQ(parsed(raw(0x2, {5, 6})).as<Exec>()->task, (Task{5, 6}));
  EXPECT_EQ(parsed(raw(0x4, {5, 6, 7, 8})).as<UidChange>()->effective, 8U);
  EXPECT_EQ(parsed(raw(0x40, {5, 6, 7, 8})).as<GidChange>()->real, 7U);
  EXPECT_EQ(parsed(raw(0x80, {5, 6})).as<SessionStart>()->task, (Task{5, 6}));
  EXPECT_EQ(parsed(raw(0x100, {5, 6, 7, 8})).as<Ptrace>()->tracer, (Task{7, 8}));
  EXPECT_EQ(parsed(raw(0x40000000, {5, 6, 7, 8})).as<CoreDump>()->parent, (Task{7, 8}));
  EXPECT_EQ(parsed(raw(0x400, {})).as<UnknownEvent>()->what, 0x400U) << "a later kernel's";
}

TEST(ProcessEventDecode, AnExitSaysHow) {
  const auto event = parsed(raw(0x80000000, {5, 6, 7U << 8U, 17, 8, 9}));
  const Exit& exit = *event.as<Exit>();
  EXPECT_EQ(exit.task, (Task{5, 6}));
  EXPECT_EQ(exit.parent, (Task{8, 9}));
  EXPECT_EQ(exit.code(), 7);
  EXPECT_EQ(exit.parent_signal, 17);
  const auto killed = parsed(raw(0x80000000, {5, 5, 0x80U | 11U, 0xffffffffU, 8, 9}));
  EXPECT_FALSE(killed.as<Exit>()->code());
  EXPECT_EQ(killed.as<Exit>()->signal(), 11);
  EXPECT_TRUE(killed.as<Exit>()->dumped_core());
  EXPECT_EQ(killed.as<Exit>()->parent_signal, -1);
}

TEST(ProcessEventDecode, ANameWithoutAnEndIsCut) {
  Bytes bytes = raw(0x200, {5, 6});
  for (std::size_t i = 24; i < 40; ++i) bytes[i] = std::byte{'x'};
  EXPECT_EQ(parsed(bytes).as<NameChange>()->name(), std::string(15, 'x'));
}

TEST(ProcessEventDecode, TooShortIsNone) {
  const Bytes bytes = raw(0x1, {1, 2, 3, 4});
  for (std::size_t size = 0; size < 40; ++size) {
    EXPECT_FALSE(PayloadTraits<ProcessEvent>::parse(std::span(bytes).first(size))) << size;
  }
}

// --- The table -------------------------------------------------------------------------------------------------------

ProcessEvent fork_of(pid_t parent, pid_t child) { return {.what = Fork{{parent, parent}, {child, child}}}; }
ProcessEvent thread_of(pid_t process, pid_t thread) { return {.what = Fork{{1, 1}, {thread, process}}}; }
ProcessEvent exit_of(pid_t process, pid_t thread) { return {.what = Exit{.task = {thread, process}}}; }
ProcessEvent exec_of(pid_t process) { return {.what = Exec{{process, process}}}; }

TEST(ProcessTableModel, AProcessEndsWithItsLastThread) {
  ProcessTable table;
  EXPECT_EQ(table.apply(fork_of(1, 100)), Change::began);
  EXPECT_EQ(table.apply(thread_of(100, 101)), Change::none);
  EXPECT_EQ(table.apply(thread_of(100, 102)), Change::none);
  EXPECT_EQ(table.find(100)->threads, 3U);
  EXPECT_EQ(table.find(100)->parent, 1);
  EXPECT_FALSE(table.contains(101)) << "a thread is no process";
  EXPECT_EQ(table.apply(exit_of(100, 100)), Change::none) << "the first thread alone";
  EXPECT_EQ(table.apply(exit_of(100, 101)), Change::none);
  EXPECT_TRUE(table.contains(100));
  EXPECT_EQ(table.apply(exit_of(100, 102)), Change::ended);
  EXPECT_EQ(table.size(), 0U);
}

TEST(ProcessTableModel, AThreadThatExecsTakesThePidOfTheFirst) {
  ProcessTable table;
  table.apply(fork_of(1, 100));
  table.apply(thread_of(100, 101));
  table.apply(thread_of(100, 102));
  EXPECT_EQ(table.apply(exit_of(100, 102)), Change::none);
  EXPECT_EQ(table.apply(exit_of(100, 100)), Change::none);
  EXPECT_EQ(table.apply(exec_of(100)), Change::execed);
  EXPECT_EQ(table.find(100)->threads, 1U) << "the exit of 101 is never told";
  EXPECT_EQ(table.apply(fork_of(1, 101)), Change::began) << "its number is free";
  EXPECT_EQ(table.apply(exit_of(100, 100)), Change::ended);
  EXPECT_TRUE(table.contains(101));
}

TEST(ProcessTableModel, TheFirstThreadsEndMayBeToldAfterTheExecOfAnother) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::pause();
    ::_exit(0);
  }
  ProcessTable table;
  table.apply(fork_of(1, pid));
  table.apply(thread_of(pid, 101));
  EXPECT_EQ(table.apply(exec_of(pid)), Change::execed);
  EXPECT_EQ(table.apply(exit_of(pid, pid)), Change::none) << "it is there";
  EXPECT_TRUE(table.contains(pid));
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  EXPECT_EQ(table.apply(exit_of(pid, pid)), Change::ended);
}

TEST(ProcessTableModel, TheFirstThreadsEndMayBeToldUnderTheNumberOfTheOneThatCalledExec) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  for (const bool is_before : {true, false}) {
    ProcessTable table;
    table.apply(fork_of(1, pid));
    table.apply(thread_of(pid, 101));
    if (is_before) {
      EXPECT_EQ(table.apply(exit_of(pid, 101)), Change::none);
    }
    EXPECT_EQ(table.apply(exec_of(pid)), Change::execed);
    if (!is_before) {
      EXPECT_EQ(table.apply(exit_of(pid, 101)), Change::none);
    }
    ASSERT_TRUE(table.contains(pid));
    EXPECT_EQ(table.find(pid)->threads, 1U);
    EXPECT_EQ(table.apply(exit_of(pid, pid)), Change::ended);
  }
}

TEST(ProcessTableModel, APidThatComesBackIsANewProcess) {
  ProcessTable table;
  table.apply(fork_of(1, 100));
  table.apply(thread_of(100, 101));
  EXPECT_EQ(table.apply(fork_of(2, 100)), Change::began) << "its end was lost";
  EXPECT_EQ(table.size(), 1U);
  EXPECT_EQ(table.find(100)->parent, 2);
  EXPECT_EQ(table.find(100)->threads, 1U);
  EXPECT_EQ(table.apply(exit_of(100, 101)), Change::none);
  EXPECT_EQ(table.apply(exit_of(100, 100)), Change::ended);
}

TEST(ProcessTableModel, EventsOfUnknownOnesChangeNothing) {
  ProcessTable table;
  for (const auto& event : {exit_of(5, 5), exec_of(5), thread_of(5, 6)}) table.apply(event);
  EXPECT_EQ(table.size(), 0U);
  EXPECT_EQ(table.apply({.what = Lost{3}}), Change::lost);
}

TEST(ProcessTableModel, ManyComeAndGoAndEachIsFound) {
  ProcessTable table;
  for (pid_t pid = 1; pid <= 20'000; ++pid) table.apply(fork_of(pid / 2, pid * 7));
  for (pid_t pid = 1; pid <= 20'000; pid += 2) EXPECT_EQ(table.apply(exit_of(pid * 7, pid * 7)), Change::ended);
  EXPECT_EQ(table.size(), 10'000U);
  for (pid_t pid = 1; pid <= 20'000; ++pid) ASSERT_EQ(table.contains(pid * 7), pid % 2 == 0) << pid;
}

TEST(ProcessTableModel, OurselvesAreFoundInProc) {
  ProcessTable table;
  must(table.scan());
  ASSERT_TRUE(table.contains(::getpid()));
  EXPECT_EQ(table.find(::getpid())->parent, ::getppid());
  EXPECT_EQ(table.find(::getpid())->id, must(identify(::getpid())));
}

// --- /proc/PID/stat --------------------------------------------------------------------------------------------------

TEST(ProcStat, NamesMayHoldAnything) {
  const std::string rest = " S 7 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 9 0 4242 0\n";
  for (const char* name : {"sh", "a b", ") S 1 (", "((", "))", "", "fifteen-letters"}) {
    const auto stat = parse_stat("12 (" + std::string(name) + ")" + rest);
    ASSERT_TRUE(stat) << name;
    EXPECT_EQ(stat->pid, 12);
    EXPECT_STREQ(stat->comm.data(), name);
    EXPECT_EQ(stat->parent, 7);
    EXPECT_EQ(stat->threads, 9U);
    EXPECT_EQ(stat->start, 4242U);
    EXPECT_FALSE(stat->is_exiting);
  }
}

TEST(ProcStat, WhoIsEndingIsSeenBeforeItIsAZombie) {
  const auto line = [](const char* state, const char* flags) {
    return "12 (sh) " + std::string(state) + " 7 1 1 0 -1 " + flags + " 0 0 0 0 0 0 0 0 20 0 9 0 4242 0\n";
  };
  EXPECT_TRUE(parse_stat(line("R", "4194308"))->is_exiting) << "PF_EXITING";
  EXPECT_TRUE(parse_stat(line("Z", "0"))->is_exiting);
  EXPECT_FALSE(parse_stat(line("R", "4194304"))->is_exiting);
}

TEST(ProcStat, AnythingElseIsNone) {
  for (const char* line : {"", "12", "12 (sh", "12 sh) S", "x (sh) S 1", "12 (sh) SS 1 1", "12 (sh) S 1 1 1",
                           "12 (sh) S x 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 9 0 4242 0"}) {
    EXPECT_FALSE(parse_stat(line)) << line;
  }
}

TEST(ProcessEventOptions, OutOfRangeIsRefused) {
  for (const ProcessEventsOptions& options :
       {ProcessEventsOptions{.events = ProcessEventMask{}}, ProcessEventsOptions{.events = ProcessEventMask{0x8}},
        ProcessEventsOptions{.batch = 0}, ProcessEventsOptions{.batch = 1025}}) {
    EXPECT_TRUE(test::fails_with(ProcessEvents::open(options), EINVAL));
  }
}

/// A kernel that answers LISTEN in the way of a certain version.
class ListenModel : public testing::Test {
 protected:
  void answer_to(std::size_t form, std::uint32_t error) {
    kernel_.on_send = [this, form, error](const test::PretendConnector::SentMessage& sent) {
      const auto operation = read_at<std::uint32_t>(sent.payload);
      if (sent.payload.size() != form || operation != 1U) return;
      kernel_.arrive(test::netlink({test::cn(ids::process, 77, sent.ack + 1, raw(0, {error}))}), 0, 1);
    };
  }
  Result<std::unique_ptr<ProcessEvents>> open(ProcessEventMask mask) {
    Fd socket = kernel_.socket();
    return ProcessEvents::adopt(socket, false, {.events = mask});
  }
  test::PretendConnector kernel_;
};

TEST_F(ListenModel, ANewKernelFiltersAndIsToldIgnoreOnce) {
  answer_to(8, 0);
  auto events = must(open(ProcessEventMask::exec));
  EXPECT_EQ(events->filter(), ProcessEvents::Filter::kernel);
  ASSERT_EQ(kernel_.sent.size(), 2U);
  EXPECT_EQ(read_at<std::uint32_t>(kernel_.sent[1].payload, 4), 2U) << "the mask";
  events.reset();
  ASSERT_EQ(kernel_.sent.size(), 3U);
  EXPECT_EQ(read_at<std::uint32_t>(kernel_.sent[2].payload), 2U) << "IGNORE";
}

TEST_F(ListenModel, AnOldKernelIsAskedInItsWayAndToldIgnoreOnce) {
  answer_to(4, 0);
  auto events = must(open(ProcessEventMask::exec));
  EXPECT_EQ(events->filter(), ProcessEvents::Filter::bpf);
  events.reset();
  ASSERT_EQ(kernel_.sent.size(), 3U) << "8 bytes, 4 bytes, IGNORE: one too many would silence others";
}

TEST_F(ListenModel, ARefusalIsAnErrorAndTakesNothingBack) {
  answer_to(4, EPERM);
  const auto events = open(ProcessEventMask::all);
  ASSERT_TRUE(test::fails_with(events, EPERM));
  EXPECT_NE(events.error().message().find("CAP_NET_ADMIN"), std::string::npos) << events.error().message();
  EXPECT_EQ(kernel_.sent.size(), 2U) << "no IGNORE for a LISTEN that was refused";
}

TEST_F(ListenModel, WhatComesAfterTheAnswerIsTheStreamsAndWhatCameBeforeIsNot) {
  kernel_.arrive(test::netlink({test::cn(ids::process, 0, 0, raw(0x2, {1, 1}))}), 0, 1);
  kernel_.on_send = [this](const test::PretendConnector::SentMessage& sent) {
    if (sent.payload.size() != 8) return;
    const auto arrive = [&](std::uint32_t ack, const Bytes& event, std::uint32_t port = 0) {
      kernel_.arrive(test::netlink({test::cn(ids::process, 0, ack, event)}), port, 1);
    };
    arrive(sent.ack + 2, raw(0, {0}));            // the answer to another listener
    arrive(sent.ack + 1, raw(0, {EPERM}), 4711);  // a forged answer
    arrive(sent.ack + 1, raw(0, {0}));
    arrive(0, raw(0x2, {5, 5}));
  };
  const auto events = must(open(ProcessEventMask::all));
  const auto first = must(events->take());
  ASSERT_TRUE(first && first->as<Exec>() != nullptr);
  EXPECT_EQ(first->as<Exec>()->task.pid, 5);
  EXPECT_FALSE(must(events->take()));
}

TEST_F(ListenModel, AnAnswerThatWasLostIsAskedForAgain) {
  int times = 0;
  kernel_.on_send = [&](const test::PretendConnector::SentMessage& sent) {
    if (sent.payload.size() != 8) return;
    kernel_.receive_buffer = ++times == 1 ? 0 : 1U << 20U;
    for (int i = 0; i < 3; ++i) kernel_.arrive(test::netlink({test::cn(ids::process, 0, 0, raw(0x2, {5, 5}))}), 0, 1);
    kernel_.arrive(test::netlink({test::cn(ids::process, 0, sent.ack + 1, raw(0, {0}))}), 0, 1);
  };
  const auto events = must(open(ProcessEventMask::all));
  EXPECT_EQ(times, 2);
  EXPECT_FALSE(must(events->take())) << "what was lost before the answer is none of ours";
}

class StreamModel : public ListenModel {
 protected:
  void SetUp() override {
    answer_to(8, 0);
    events_ = must(open(ProcessEventMask::all));
    while (must(events_->take())) {
    }
  }
  void event(std::uint32_t pid) {
    kernel_.arrive(test::netlink({test::cn(ids::process, 0, 0, raw(0x2, {pid, pid}))}), 0, 1);
  }
  std::size_t reads() { return std::exchange(kernel_.receive_calls, 0); }
  std::unique_ptr<ProcessEvents> events_;
};

TEST_F(StreamModel, WhoOnlyWaitsReadsOnceForAllThatHasCome) {
  event(1);
  event(2);
  (void)reads();
  EXPECT_TRUE(events_->wait(Deadline::immediate()));
  EXPECT_TRUE(events_->wait(Deadline::immediate()));
  EXPECT_EQ(reads(), 1U);
  EXPECT_TRUE(test::fails_with(events_->wait(Deadline::immediate()), ETIMEDOUT));
  EXPECT_TRUE(test::fails_with(events_->wait(Deadline::immediate()), ETIMEDOUT));
  EXPECT_EQ(reads(), 0U) << "poll() says that there is nothing";
  event(3);
  EXPECT_TRUE(events_->wait(Deadline::immediate()));
  EXPECT_EQ(reads(), 1U);
}

TEST_F(StreamModel, ALoopOfOnesOwnReadsOnceForAllThatHasCome) {
  event(1);
  event(2);
  (void)reads();
  must(events_->dispatch(POLLIN));
  EXPECT_TRUE(must(events_->take()));
  EXPECT_TRUE(must(events_->take()));
  EXPECT_FALSE(must(events_->take()));
  EXPECT_EQ(reads(), 1U);
  event(3);
  EXPECT_TRUE(must(events_->take())) << "whoever asks again gets what came since";
}

TEST_F(StreamModel, WhatTheKernelCountsLateIsToldHoweverOftenOneHasLookedMeanwhile) {
  kernel_.receive_buffer = 0;
  event(1);
  event(2);
  while (must(events_->take())) {
  }
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(must(events_->take()));
  ++kernel_.drops;  // by a sender that was preempted between finding no room and counting the drop
  const auto late = must(events_->take());
  ASSERT_TRUE(late);
  ASSERT_NE(late->as<Lost>(), nullptr);
  EXPECT_EQ(late->as<Lost>()->count, 1U);
}

TEST_F(StreamModel, WhatTheKernelCountsLateIsStillToldByWhoOnlyWaits) {
  kernel_.receive_buffer = 0;
  for (std::uint32_t pid = 1; pid <= 3; ++pid) event(pid);
  EXPECT_TRUE(must(events_->wait(Deadline::immediate())).as<Exec>() != nullptr);
  const auto lost = must(events_->wait(Deadline::immediate()));
  ASSERT_NE(lost.as<Lost>(), nullptr);
  EXPECT_EQ(lost.as<Lost>()->count, 2U);
  event(4);
  ++kernel_.drops;
  EXPECT_NE(must(events_->wait(Deadline::immediate())).as<Exec>(), nullptr);
  const auto late = must(events_->wait(Deadline::immediate()));
  ASSERT_NE(late.as<Lost>(), nullptr);
  EXPECT_EQ(late.as<Lost>()->count, 1U);
}

}  // namespace
}  // namespace dmaflow::connector
