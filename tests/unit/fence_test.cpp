// Fence, merge(), Cancel and the implicit fences of a buffer, on any machine. The sync_files here are stand-ins, so
// that a test can create any state and any race. tests/integration/fence_test.cpp uses the kernel's own.
#include "fake.hpp"

#include "uapi/dma_buf.hpp"
#include "uapi/sync_file.hpp"

#include <dmaflow/cancel.hpp>
#include <dmaflow/fence.hpp>
#include <dmaflow/implicit_fences.hpp>

#include <algorithm>
#include <map>
#include <mutex>
#include <thread>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;
using namespace std::chrono_literals;

namespace {

/// Lets eventfds pass as sync_files while it lives. As in the kernel, one is readable when all its parts have ended.
class PretendSyncFiles : public sys::Hook {
 public:
  PretendSyncFiles() { sys::set_hook(this); }
  ~PretendSyncFiles() override { sys::set_hook(nullptr); }

  /// A sync_file of these parts: 0 active, 1 signalled, negative failed.
  Fence fence(std::vector<int> parts) { return Fence::adopt_unchecked(make(std::move(parts))); }
  void set(const Fence& fence, std::vector<int> parts) {
    const std::scoped_lock lock(mutex_);
    parts_[fence.poll_fd()] = std::move(parts);
    show(fence.poll_fd());
  }

  int before(const sys::Call& call) noexcept override {
    const std::scoped_lock lock(mutex_);
    ++calls;
    if (on_call) on_call(call);
    if (call.request == SYNC_IOC_FILE_INFO && parts_.contains(call.fd)) {
      return info(call.fd, *static_cast<sync_file_info*>(const_cast<void*>(call.argument)));
    }
    if (call.request == SYNC_IOC_MERGE) {
      ++merges;
      if (merges == failing_merge) return EMFILE;
      return merge(call.fd, *static_cast<sync_merge_data*>(const_cast<void*>(call.argument)));
    }
    return proceed;
  }

  std::size_t calls = 0;
  std::size_t merges = 0;
  std::size_t failing_merge = 0;  ///< the number of the merge that fails, counted from 1
  std::function<void(const sys::Call&)> on_call;

 private:
  Fd make(std::vector<int> parts) {
    const std::scoped_lock lock(mutex_);
    Fd fd = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    parts_[fd.get()] = std::move(parts);
    show(fd.get());
    return fd;
  }
  bool has_ended(int fd) { return std::ranges::count(parts_[fd], 0) == 0; }
  void show(int fd) {
    if (!has_ended(fd)) return;
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }
  int info(int fd, sync_file_info& info) {
    const auto& parts = parts_[fd];
    if (info.num_fences == 0) {
      info.status = has_ended(fd) ? 1 : 0;  // the kernel forgets the errors of merged fences
      info.num_fences = static_cast<__u32>(parts.size());
      return pretend;
    }
    if (info.num_fences < parts.size()) return EINVAL;
    auto* out = reinterpret_cast<sync_fence_info*>(info.sync_fence_info);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      out[i] = {};
      std::string_view("pretended").copy(out[i].driver_name, 31);
      out[i].status = parts[i];
      out[i].timestamp_ns = parts[i] == 0 ? 0 : 1000 + i;
    }
    info.num_fences = static_cast<__u32>(parts.size());
    return pretend;
  }
  int merge(int fd, sync_merge_data& data) {
    std::vector<int> parts;
    for (const int input : {fd, data.fd2}) {  // only active fences are kept, as in the kernel
      std::ranges::copy_if(parts_[input], std::back_inserter(parts), [](int status) { return status == 0; });
    }
    if (parts.empty()) parts = {1};
    data.fence = make(std::move(parts)).release();
    return pretend;
  }

  std::recursive_mutex mutex_;  // on_call may change the parts
  std::map<int, std::vector<int>> parts_;
};

class FenceTest : public testing::Test {
 protected:
  static Deadline soon() { return Deadline::after(10s); }
  std::vector<Fence> fences(std::initializer_list<std::vector<int>> all) {
    std::vector<Fence> result;
    for (const auto& parts : all) result.push_back(parts.empty() ? Fence() : kernel.fence(parts));
    return result;
  }
  PretendSyncFiles kernel;
};

TEST_F(FenceTest, ANullFenceCostsNoSystemCallWhateverIsAsked) {
  {
    const Fence fence;
    EXPECT_TRUE(fence.is_null());
    EXPECT_TRUE(fence.wait(Deadline::immediate()));
    EXPECT_EQ(must(fence.state()), Fence::State::signalled);
    EXPECT_TRUE(must(fence.has_ended()));
    EXPECT_TRUE(must(fence.dup()).is_null());
    EXPECT_TRUE(must(fence.info()).empty());
    EXPECT_TRUE(fence.hint_deadline(Deadline::immediate()));
    EXPECT_EQ(fence.poll_fd(), -1);
    std::vector<Fence> nulls(8);
    EXPECT_TRUE(must(merge(nulls)).is_null());
    EXPECT_TRUE(must(merge({})).is_null());
    EXPECT_FALSE(std::move(nulls[0]).take_fd());
    EXPECT_TRUE(Fence::adopt_unchecked(Fd()).is_null());
    EXPECT_TRUE(import_fence(Buffer(), fence, Access::write));
  }
  EXPECT_EQ(kernel.calls, 0U);
}

TEST_F(FenceTest, WaitingForASignalledOneCostsOneSystemCall) {
  const Fence fence = kernel.fence({1});
  EXPECT_TRUE(fence.wait(soon()));
  EXPECT_EQ(kernel.calls, 1U);
  EXPECT_EQ(must(fence.state()), Fence::State::signalled);
  EXPECT_EQ(kernel.calls, 2U);
  const Fence merged = kernel.fence(std::vector<int>(16, 1));
  EXPECT_TRUE(merged.wait(soon()));
  EXPECT_EQ(kernel.calls, 3U) << "as many parts as nearly every fence has";
}

TEST_F(FenceTest, AStatusIsThatOfTheWorstPart) {
  using enum Fence::State;
  const std::vector<std::pair<std::vector<int>, Fence::State>> table = {
      {{1}, signalled}, {{0}, active},       {{-EIO}, failed},       {{1, 1}, signalled},
      {{1, 0}, active}, {{1, -EIO}, failed}, {{0, -EIO, 1}, failed}, {{-EIO, 0}, failed},
  };
  for (const auto& [parts, status] : table) {
    const Fence fence = kernel.fence(parts);
    EXPECT_EQ(must(fence.state()), status) << testing::PrintToString(parts);
    EXPECT_EQ(must(fence.has_ended()), std::ranges::count(parts, 0) == 0) << testing::PrintToString(parts);
  }
}

TEST_F(FenceTest, AWaitThatEndsWithTheFencesErrorLeavesNobodyAtWork) {
  const Fence fence = kernel.fence({-EIO, 0});
  EXPECT_TRUE(fails_with(fence.wait(Deadline::after(20ms)), ETIMEDOUT)) << "the second part is at work still";
  kernel.set(fence, {-EIO, 1});
  EXPECT_TRUE(fails_with(fence.wait(soon()), EIO)) << "the kernel's own answer would be success";
}

TEST_F(FenceTest, AWaitEndsWhenTheFenceSignals) {
  for (const int outcome : {1, -ENOENT}) {
    const Fence fence = kernel.fence({0});
    std::thread device([&] {
      std::this_thread::sleep_for(20ms);
      kernel.set(fence, {outcome});
    });
    const auto result = fence.wait(soon());
    device.join();
    EXPECT_TRUE(outcome == 1 ? testing::AssertionResult(bool{result}) : fails_with(result, ENOENT));
  }
}

TEST_F(FenceTest, MergedFencesOfManyPartsAreReadWhole) {
  for (const std::size_t count : {15U, 16U, 17U, 256U}) {
    std::vector<int> parts(count, 1);
    const Fence fence = kernel.fence(parts);
    EXPECT_EQ(must(fence.state()), Fence::State::signalled) << count;
    parts.back() = -EIO;
    kernel.set(fence, parts);
    EXPECT_TRUE(fails_with(fence.wait(soon()), EIO)) << count;
    const auto info = must(fence.info());
    ASSERT_EQ(info.size(), count);
    EXPECT_EQ(info.back().status, -EIO);
    EXPECT_EQ(info.back().driver, "pretended");
    EXPECT_EQ(info.back().timestamp, std::chrono::nanoseconds(1000 + count - 1));
  }
}

TEST_F(FenceTest, PartsThatBecomeMoreWhileTheyAreReadAreReadAgain) {
  const Fence fence = kernel.fence(std::vector<int>(20, 1));
  std::size_t grown = 20;
  kernel.on_call = [&](const sys::Call& call) {
    // Whenever the parts were counted and are about to be read, more are added.
    if (call.request != SYNC_IOC_FILE_INFO || grown > 50) return;
    const auto* info = static_cast<const sync_file_info*>(call.argument);
    if (info->num_fences < 17) return;
    grown += 20;
    kernel.set(fence, std::vector<int>(grown, 1));
  };
  EXPECT_EQ(must(fence.info()).size(), 60U);
}

TEST_F(FenceTest, AnEinvalThatManyPartsDoNotExplainIsAnErrorNotALoop) {
  const Fence fence = kernel.fence({1});
  std::size_t asked = 0;
  struct Refusing : sys::Hook {
    explicit Refusing(std::size_t& asked_times) : asked(asked_times) {}
    int before(const sys::Call& call) noexcept override {
      if (call.request != SYNC_IOC_FILE_INFO) return proceed;
      auto* info = static_cast<sync_file_info*>(const_cast<void*>(call.argument));
      if (++asked > 100) return EIO;
      if (info->num_fences != 0) return EINVAL;
      info->num_fences = 1;
      return pretend;
    }
    std::size_t& asked;
  } refusing(asked);
  sys::set_hook(&refusing);
  EXPECT_TRUE(fails_with(fence.state(), EINVAL));
  sys::set_hook(nullptr);
  EXPECT_LE(asked, 3U);
}

/// Descriptors that are no sync_files, made fresh, and what they are.
std::vector<std::pair<std::string, Fd>> wrong_descriptors() {
  std::vector<std::pair<std::string, Fd>> result;
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  result.emplace_back("the reading end of a pipe", Fd::adopt(ends[0]));
  result.emplace_back("the writing end of a pipe", Fd::adopt(ends[1]));
  result.emplace_back("a memfd", memfd(4096));
  result.emplace_back("a socket", Fd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  result.emplace_back("an eventfd", Fd::adopt(::eventfd(0, EFD_CLOEXEC)));
  result.emplace_back("/dev/null", Fd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC)));
  return result;
}

TEST_F(FenceTest, WhatIsNoSyncFileIsRefusedAndStaysOpenAndTheCallers) {
  const LeakCheck leaks;
  for (auto& [what, fd] : wrong_descriptors()) {
    const int number = fd.get();
    const auto adopted = Fence::adopt(fd);
    ASSERT_TRUE(fails_with(adopted, EINVAL)) << what;
    EXPECT_NE(adopted.error().message().find("not a sync_file"), std::string::npos) << adopted.error().message();
    EXPECT_NE(adopted.error().message().find(std::to_string(number)), std::string::npos) << adopted.error().message();
    EXPECT_EQ(fd.get(), number) << what;
    EXPECT_TRUE(fails_with(Fence::dup_of(number), EINVAL)) << what;
    EXPECT_GE(::fcntl(number, F_GETFD), 0) << what << " was closed";
  }
}

TEST_F(FenceTest, AClosedNumberIsRefusedAndWhoeverGetsItNextKeepsIt) {
  Fd stale = memfd(4096);
  const int number = stale.get();
  ::close(number);
  const auto adopted = Fence::adopt(stale);
  ASSERT_TRUE(fails_with(adopted, EBADF));
  EXPECT_NE(adopted.error().message().find("not open"), std::string::npos) << adopted.error().message();
  EXPECT_TRUE(fails_with(Fence::dup_of(number), EBADF));
  EXPECT_TRUE(fails_with(Fence::dup_of(-1), EBADF));
  Fd none;
  EXPECT_TRUE(fails_with(Fence::adopt(none), EBADF));

  const Fd next = memfd(4096);
  EXPECT_EQ(next.get(), number) << "the number is used again";
  EXPECT_EQ(stale.release(), number) << "the stale owner is the caller's: it must not close it now";
  EXPECT_GE(::fcntl(number, F_GETFD), 0);
}

TEST_F(FenceTest, DupAndTakeGiveDescriptorsOfTheirOwn) {
  const LeakCheck leaks;
  Fence fence = kernel.fence({1});
  const int number = fence.poll_fd();
  {
    const Fence copy = must(fence.dup());
    EXPECT_NE(copy.poll_fd(), number);
    EXPECT_EQ(::fcntl(copy.poll_fd(), F_GETFD), FD_CLOEXEC);
  }
  const Fd taken = std::move(fence).take_fd();
  EXPECT_EQ(taken.get(), number);
  EXPECT_TRUE(fence.is_null());  // NOLINT(bugprone-use-after-move): this is what the test checks
}

TEST_F(FenceTest, AKernelWithoutDeadlineHintsSaysSoAndFromWhichItHasThem) {
  const Fence fence = kernel.fence({0});
  const FailNth old(1, ENOTTY, "ioctl", SYNC_IOC_SET_DEADLINE);
  const auto hinted = fence.hint_deadline(soon());
  ASSERT_TRUE(fails_with(hinted, EOPNOTSUPP));
  EXPECT_NE(hinted.error().message().find("6.6"), std::string::npos) << hinted.error().message();
}

// --- merge

TEST_F(FenceTest, MergingDropsWhatHasSignalledAndCostsOneCallLessThanIsLeft) {
  for (const std::size_t count : {1U, 2U, 3U, 7U, 8U, 64U, 256U}) {
    kernel.merges = 0;
    std::vector<Fence> inputs;
    for (std::size_t i = 0; i < count; ++i) {
      inputs.push_back(kernel.fence({0}));
      inputs.push_back(kernel.fence({1}));
      inputs.emplace_back();
    }
    const Fence merged = must(merge(inputs));
    EXPECT_EQ(kernel.merges, count - 1);
    EXPECT_EQ(must(merged.info()).size(), count);
    EXPECT_TRUE(std::ranges::all_of(inputs, &Fence::is_null));
  }
}

TEST_F(FenceTest, MergingWhatHasAllSignalledGivesNull) {
  auto inputs = fences({{1}, {}, {1, 1}});
  EXPECT_TRUE(must(merge(inputs)).is_null());
  EXPECT_EQ(kernel.merges, 0U);
  EXPECT_TRUE(std::ranges::all_of(inputs, &Fence::is_null));
}

TEST_F(FenceTest, MergingIntoOneMovesThatOne) {
  auto inputs = fences({{1}, {}, {0}, {1}});
  const int number = inputs[2].poll_fd();
  const Fence merged = must(merge(inputs));
  EXPECT_EQ(merged.poll_fd(), number);
  EXPECT_EQ(kernel.merges, 0U);
}

TEST_F(FenceTest, AFailedInputIsTheErrorAndEveryInputIsStillTheCallers) {
  const LeakCheck leaks;
  for (std::size_t bad = 0; bad < 5; ++bad) {
    auto inputs = fences({{0}, {0}, {0}, {0}, {0}});
    kernel.set(inputs[bad], {-ENOENT});
    std::vector<int> numbers;
    std::ranges::transform(inputs, std::back_inserter(numbers), &Fence::poll_fd);
    EXPECT_TRUE(fails_with(merge(inputs), ENOENT));
    EXPECT_TRUE(std::ranges::equal(inputs, numbers, {}, &Fence::poll_fd)) << "as they were, in their order";
  }
}

TEST_F(FenceTest, WhicheverMergeCallFailsEveryInputIsStillTheCallers) {
  const LeakCheck leaks;
  for (kernel.failing_merge = 1; kernel.failing_merge <= 4; ++kernel.failing_merge) {
    kernel.merges = 0;
    auto inputs = fences({{0}, {0}, {0}, {0}, {0}});
    EXPECT_TRUE(fails_with(merge(inputs), EMFILE));
    EXPECT_TRUE(std::ranges::none_of(inputs, &Fence::is_null));
  }
}

TEST_F(FenceTest, AnInputThatFailsWhileItIsMergedIsNotForgotten) {
  const LeakCheck leaks;
  auto inputs = fences({{0}, {0}, {0}});
  kernel.on_call = [&](const sys::Call& call) {
    if (call.request == SYNC_IOC_MERGE) kernel.set(inputs[1], {-EIO});  // after it was checked
  };
  EXPECT_TRUE(fails_with(merge(inputs), EIO));
  EXPECT_TRUE(std::ranges::none_of(inputs, &Fence::is_null));
}

TEST_F(FenceTest, AnInputThatFailsWhileItIsMergedIsNotForgottenBesideOneOfManyParts) {
  const LeakCheck leaks;
  auto inputs = fences({{0, 0, 0}, {0}});
  kernel.on_call = [&](const sys::Call& call) {
    if (call.request == SYNC_IOC_MERGE) kernel.set(inputs[1], {-EIO});  // after it was checked
  };
  EXPECT_TRUE(fails_with(merge(inputs), EIO));
  EXPECT_TRUE(std::ranges::none_of(inputs, &Fence::is_null));
}

// --- Cancel

TEST_F(FenceTest, AnotherThreadEndsAWait) {
  const Cancel cancel = must(Cancel::create());
  const Fence fence = kernel.fence({0});
  std::thread other([&] {
    std::this_thread::sleep_for(20ms);
    cancel.cancel();
  });
  EXPECT_TRUE(fails_with(fence.wait(soon(), &cancel), ECANCELED));
  other.join();
  EXPECT_TRUE(cancel.is_set());
  EXPECT_TRUE(fails_with(fence.wait(soon(), &cancel), ECANCELED)) << "it stays set";
  cancel.cancel();
  cancel.reset();
  EXPECT_FALSE(cancel.is_set());
  EXPECT_TRUE(fails_with(fence.wait(Deadline::after(1ms), &cancel), ETIMEDOUT)) << "fit for new waits";
}

TEST_F(FenceTest, OneSwitchEndsTheWaitsOfManyThreads) {
  const Cancel cancel = must(Cancel::create());
  const Fence fence = kernel.fence({0});
  std::atomic<int> cancelled{0};
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto result = fence.wait(soon(), &cancel);
      if (!result && result.error().code() == ECANCELED) ++cancelled;
    });
  }
  std::this_thread::sleep_for(10ms);
  cancel.cancel();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cancelled, 8);
}

TEST_F(FenceTest, WhatHasSignalledIsReportedThoughTheWaitIsCancelled) {
  const Cancel cancel = must(Cancel::create());
  cancel.cancel();
  EXPECT_TRUE(kernel.fence({1}).wait(soon(), &cancel));
  EXPECT_TRUE(fails_with(kernel.fence({-EIO}).wait(soon(), &cancel), EIO));
}

TEST_F(FenceTest, AWaitKeepsItsDeadlineUnderSignalsEveryMillisecond) {
  struct sigaction action{};
  struct sigaction old{};
  static std::atomic<int> signals{0};
  action.sa_handler = [](int) { ++signals; };  // without SA_RESTART: system calls fail with EINTR
  ::sigaction(SIGALRM, &action, &old);
  const itimerval every{.it_interval = {0, 1000}, .it_value = {0, 1000}};
  const itimerval never{};
  ::setitimer(ITIMER_REAL, &every, nullptr);
  const Fence fence = kernel.fence({0});
  const Deadline deadline = Deadline::after(100ms);
  const auto result = fence.wait(deadline);
  const auto end = Deadline::Clock::now();
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &old, nullptr);
  EXPECT_TRUE(fails_with(result, ETIMEDOUT));
  EXPECT_GE(end, deadline.time()) << "never early";
  EXPECT_GT(signals, 10) << "it was interrupted";
}

// --- implicit fences

class ImplicitFencesTest : public testing::Test {
 protected:
  Buffer buffer(bool planar = false) {
    const PretendDmaBufs pretend;
    if (!planar) return memfd_buffer(small_config().layout);
    return memfd_buffer(must(Layout::linear(formats::nv12, {64, 48}, {.separate_objects = true})),
                        {.separate_objects = true});
  }
};

TEST_F(ImplicitFencesTest, OnKernelsThatCannotExportTheErrorNamesTheWaitThatWorksThere) {
  // Kernels before 6.0 answer ENOTTY, and so do these memfds, on any kernel.
  const auto exported = export_fence(buffer(), Access::read);
  ASSERT_TRUE(fails_with(exported, EOPNOTSUPP));
  EXPECT_NE(exported.error().message().find("wait_idle()"), std::string::npos) << exported.error().message();
  EXPECT_NE(exported.error().message().find("6.0"), std::string::npos) << exported.error().message();
  EXPECT_TRUE(wait_idle(buffer(true), Access::read, Deadline::immediate()));
  EXPECT_TRUE(wait_idle(buffer(true), Access::write, Deadline::immediate()));
}

TEST_F(ImplicitFencesTest, OnKernelsThatCannotImportTheErrorNamesTheWaitThatWorksThere) {
  const Fence fence = Fence::adopt_unchecked(memfd(4096));
  const auto imported = import_fence(buffer(), fence, Access::write);
  ASSERT_TRUE(fails_with(imported, EOPNOTSUPP));
  EXPECT_NE(imported.error().message().find("Fence::wait()"), std::string::npos) << imported.error().message();
  EXPECT_FALSE(fence.is_null());
}

/// Answers the ioctls that carry fences, and records their flags.
class FenceCarrier : public sys::Hook {
 public:
  FenceCarrier() { sys::set_hook(this); }
  ~FenceCarrier() override { sys::set_hook(nullptr); }
  int before(const sys::Call& call) noexcept override {
    if (call.request != DMA_BUF_IOCTL_EXPORT_SYNC_FILE && call.request != DMA_BUF_IOCTL_IMPORT_SYNC_FILE) {
      return proceed;
    }
    auto* data = static_cast<uapi::dma_buf_sync_file*>(const_cast<void*>(call.argument));
    flags.push_back(data->flags);
    if (flags.size() == failing) return ENOMEM;
    if (call.request == DMA_BUF_IOCTL_EXPORT_SYNC_FILE) data->fd = memfd(4096).release();
    return pretend;
  }
  std::vector<std::uint32_t> flags;
  std::size_t failing = 0;  ///< the number of the call that fails, counted from 1
};

TEST_F(ImplicitFencesTest, EveryDmaBufIsAskedAndToldTheKernelsWord) {
  const Buffer planar = buffer(true);
  const Fence fence = Fence::adopt_unchecked(memfd(4096));
  const std::vector<std::pair<Access, std::uint32_t>> words = {
      {Access::read, DMA_BUF_SYNC_READ}, {Access::write, DMA_BUF_SYNC_WRITE}, {Access::read_write, DMA_BUF_SYNC_RW}};
  for (const auto& [access, word] : words) {
    FenceCarrier kernel;
    EXPECT_TRUE(import_fence(planar, fence, access));
    EXPECT_EQ(kernel.flags, (std::vector{word, word}));
  }
}

TEST_F(ImplicitFencesTest, AnExportThatFailsOnTheSecondDmaBufLeavesNothing) {
  const Buffer planar = buffer(true);
  const LeakCheck leaks;
  FenceCarrier kernel;
  kernel.failing = 2;
  EXPECT_TRUE(fails_with(export_fence(planar, Access::write), ENOMEM));
  EXPECT_EQ(kernel.flags.size(), 2U);
}

TEST_F(ImplicitFencesTest, AFailingPollIsAnErrorNotAGoAhead) {
  const Buffer memory = buffer();
  const FailNth fail(1, ENOMEM, "poll");
  EXPECT_TRUE(fails_with(wait_idle(memory, Access::read, Deadline::after(1s)), ENOMEM));
}

}  // namespace
